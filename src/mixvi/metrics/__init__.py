"""Figures of merit: clusters, counterfactuals, populations, calibration. Arrays in, numbers out."""

from mixvi.metrics.calibration import expected_calibration_error, reliability_curve
from mixvi.metrics.clustering import (
    accuracy_by_overlap,
    active_units,
    clustering_report,
    component_table,
    hungarian_accuracy,
    hungarian_map,
    overlap_map,
    per_label_recall,
    used_components,
)
from mixvi.metrics.counterfactual import (
    class_mean_baseline,
    mean_expression_r2,
    mean_expression_table,
    variance_ratio,
)
from mixvi.metrics.populations import (
    MarkerOverlap,
    energy_distance,
    knn_agreement,
    marker_overlap,
    mmd,
    top_de_genes,
)

__all__ = [
    "MarkerOverlap",
    "accuracy_by_overlap",
    "active_units",
    "class_mean_baseline",
    "clustering_report",
    "component_table",
    "energy_distance",
    "expected_calibration_error",
    "hungarian_accuracy",
    "hungarian_map",
    "knn_agreement",
    "marker_overlap",
    "mean_expression_r2",
    "mean_expression_table",
    "mmd",
    "overlap_map",
    "per_label_recall",
    "reliability_curve",
    "top_de_genes",
    "used_components",
    "variance_ratio",
]
