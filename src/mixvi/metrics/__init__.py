"""Figures of merit, one file a theme: arrays in, numbers out."""

from mixvi.metrics.calibration import expected_calibration_error, reliability_curve
from mixvi.metrics.classifier import ImageClassifier, train_image_classifier
from mixvi.metrics.clustering import (
    accuracy_by_overlap,
    active_units,
    ari,
    clustering_accuracy,
    clustering_report,
    component_table,
    hungarian_accuracy,
    hungarian_map,
    nmi,
    overlap_map,
    per_label_recall,
    used_components,
)
from mixvi.metrics.counterfactual import (
    class_mean_baseline,
    mean_expression_r2,
    mean_expression_table,
    responding_genes,
    variance_ratio,
)
from mixvi.metrics.differential import de_auprc, de_direction_match, de_overlap, de_table
from mixvi.metrics.distances import PermutationTest, energy_distance, mmd, permutation_test
from mixvi.metrics.effects import (
    centroid_accuracy,
    change_cosine,
    change_norm_ratio,
    change_pearson,
    change_r2,
    change_rmse,
    de_weights,
    normalised_score,
)
from mixvi.metrics.generated_images import KID, InceptionScore, fid, inception_score, kid
from mixvi.metrics.image_manifolds import ManifoldScores, manifold_scores
from mixvi.metrics.imputation import gap_lengths, imputation_scores
from mixvi.metrics.information import (
    aggregate_kl,
    code_moments,
    empirical_information,
    encoder_entropy,
    mutual_information,
    posterior_kl,
)
from mixvi.metrics.populations import (
    MarkerOverlap,
    knn_agreement,
    marker_overlap,
    top_de_genes,
)
from mixvi.metrics.probe import linear_probe
from mixvi.metrics.reconstruction import log_mse, mean_bias_sq, mean_squared_error
from mixvi.metrics.segmentation import (
    PixelCalibration,
    SegmentationScores,
    pixel_calibration,
    segmentation_scores,
)

__all__ = [
    "KID",
    "PermutationTest",
    "centroid_accuracy",
    "change_cosine",
    "change_norm_ratio",
    "change_pearson",
    "change_r2",
    "change_rmse",
    "de_auprc",
    "de_direction_match",
    "de_overlap",
    "de_table",
    "de_weights",
    "normalised_score",
    "permutation_test",
    "ImageClassifier",
    "InceptionScore",
    "ManifoldScores",
    "MarkerOverlap",
    "PixelCalibration",
    "SegmentationScores",
    "accuracy_by_overlap",
    "active_units",
    "aggregate_kl",
    "ari",
    "class_mean_baseline",
    "clustering_accuracy",
    "clustering_report",
    "code_moments",
    "component_table",
    "empirical_information",
    "encoder_entropy",
    "energy_distance",
    "expected_calibration_error",
    "fid",
    "gap_lengths",
    "hungarian_accuracy",
    "hungarian_map",
    "imputation_scores",
    "inception_score",
    "kid",
    "knn_agreement",
    "linear_probe",
    "log_mse",
    "manifold_scores",
    "marker_overlap",
    "mean_bias_sq",
    "mean_expression_r2",
    "mean_expression_table",
    "mean_squared_error",
    "mmd",
    "mutual_information",
    "nmi",
    "overlap_map",
    "per_label_recall",
    "pixel_calibration",
    "posterior_kl",
    "reliability_curve",
    "responding_genes",
    "segmentation_scores",
    "top_de_genes",
    "train_image_classifier",
    "used_components",
    "variance_ratio",
]
