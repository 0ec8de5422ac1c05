"""Figures of merit, one file a theme: arrays in, numbers out."""

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
from mixvi.metrics.information import (
    aggregate_kl,
    code_moments,
    encoder_entropy,
    mutual_information,
    posterior_kl,
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
    "aggregate_kl",
    "class_mean_baseline",
    "clustering_report",
    "code_moments",
    "component_table",
    "encoder_entropy",
    "energy_distance",
    "expected_calibration_error",
    "hungarian_accuracy",
    "hungarian_map",
    "knn_agreement",
    "marker_overlap",
    "mean_expression_r2",
    "mean_expression_table",
    "mmd",
    "mutual_information",
    "overlap_map",
    "per_label_recall",
    "posterior_kl",
    "reliability_curve",
    "top_de_genes",
    "used_components",
    "variance_ratio",
]
