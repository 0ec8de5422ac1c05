"""Figures of merit: clustering, counterfactuals, calibration. Arrays in, numbers out."""

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

__all__ = [
    "accuracy_by_overlap",
    "active_units",
    "class_mean_baseline",
    "clustering_report",
    "component_table",
    "expected_calibration_error",
    "hungarian_accuracy",
    "hungarian_map",
    "mean_expression_r2",
    "mean_expression_table",
    "overlap_map",
    "per_label_recall",
    "reliability_curve",
    "used_components",
    "variance_ratio",
]
