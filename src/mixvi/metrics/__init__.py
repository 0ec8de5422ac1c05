"""Figures of merit, one file a theme: arrays in, numbers out."""

from mixvi.metrics.agreement import rank_agreement, variance_shares
from mixvi.metrics.anomaly import anomaly_scores
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
from mixvi.metrics.domain_shift import domain_shift, flipped_pixels, inverted, triangle
from mixvi.metrics.downstream import DownstreamScore, downstream_probe
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
from mixvi.metrics.factors import FactorScore
from mixvi.metrics.fixed_factors import beta_vae_score, factor_vae_score
from mixvi.metrics.generated_images import KID, InceptionScore, fid, inception_score, kid
from mixvi.metrics.image_manifolds import ManifoldScores, manifold_scores
from mixvi.metrics.imputation import gap_lengths, imputation_scores
from mixvi.metrics.information import (
    aggregate_kl,
    code_moments,
    empirical_information,
    encoder_entropy,
    kl_per_dimension,
    latent_report,
    mutual_information,
    posterior_kl,
)
from mixvi.metrics.information_gap import mig, modularity
from mixvi.metrics.model_selection import UDRScore, udr
from mixvi.metrics.populations import (
    MarkerOverlap,
    knn_agreement,
    marker_overlap,
    top_de_genes,
)
from mixvi.metrics.predictability import DCIScore, dci, sap
from mixvi.metrics.probe import linear_probe
from mixvi.metrics.reconstruction import log_mse, mean_bias_sq, mean_squared_error
from mixvi.metrics.segmentation import (
    PixelCalibration,
    SegmentationScores,
    pixel_calibration,
    segmentation_scores,
)
from mixvi.metrics.total_correlation import (
    KLDecomposition,
    discriminator_total_correlation,
    gaussian_total_correlation,
    kl_decomposition,
    minibatch_total_correlation,
)

__all__ = [
    "DCIScore",
    "DownstreamScore",
    "FactorScore",
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
    "KID",
    "KLDecomposition",
    "ManifoldScores",
    "MarkerOverlap",
    "PixelCalibration",
    "SegmentationScores",
    "UDRScore",
    "accuracy_by_overlap",
    "active_units",
    "anomaly_scores",
    "aggregate_kl",
    "ari",
    "beta_vae_score",
    "class_mean_baseline",
    "clustering_accuracy",
    "clustering_report",
    "code_moments",
    "component_table",
    "dci",
    "discriminator_total_correlation",
    "domain_shift",
    "downstream_probe",
    "empirical_information",
    "encoder_entropy",
    "energy_distance",
    "expected_calibration_error",
    "factor_vae_score",
    "fid",
    "flipped_pixels",
    "gap_lengths",
    "gaussian_total_correlation",
    "hungarian_accuracy",
    "hungarian_map",
    "imputation_scores",
    "inception_score",
    "inverted",
    "kid",
    "kl_decomposition",
    "kl_per_dimension",
    "latent_report",
    "knn_agreement",
    "linear_probe",
    "log_mse",
    "manifold_scores",
    "marker_overlap",
    "mean_bias_sq",
    "mean_expression_r2",
    "mean_expression_table",
    "mean_squared_error",
    "mig",
    "minibatch_total_correlation",
    "mmd",
    "modularity",
    "mutual_information",
    "nmi",
    "overlap_map",
    "per_label_recall",
    "pixel_calibration",
    "posterior_kl",
    "rank_agreement",
    "reliability_curve",
    "responding_genes",
    "sap",
    "segmentation_scores",
    "top_de_genes",
    "train_image_classifier",
    "triangle",
    "udr",
    "used_components",
    "variance_ratio",
    "variance_shares",
]
