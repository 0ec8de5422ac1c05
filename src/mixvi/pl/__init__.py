"""Plots that scanpy does not have; each returns matplotlib axes."""

from mixvi.pl.clusters import component_heatmap, confidence, reliability
from mixvi.pl.codes import aggregate_posterior, interpolations, latent_kl, traversals
from mixvi.pl.comparison import (
    domain_shift,
    information,
    rank_correlations,
    robustness,
    sample_efficiency,
    tradeoff,
)
from mixvi.pl.components import component_path, component_tree
from mixvi.pl.effects import counterfactual_metrics
from mixvi.pl.expression import mean_expression
from mixvi.pl.generated import hybrid_umap
from mixvi.pl.images import failures, image_grid, images, images_by_cluster, reconstructions
from mixvi.pl.latent import latent
from mixvi.pl.light_curves import anomaly_histogram, folded_curve, strangest_curves
from mixvi.pl.satellite import image_series, pixel_series, segmentation
from mixvi.pl.training import loss_terms

__all__ = [
    "aggregate_posterior",
    "anomaly_histogram",
    "component_heatmap",
    "component_path",
    "component_tree",
    "confidence",
    "counterfactual_metrics",
    "domain_shift",
    "failures",
    "folded_curve",
    "hybrid_umap",
    "image_grid",
    "image_series",
    "images",
    "images_by_cluster",
    "information",
    "interpolations",
    "latent",
    "latent_kl",
    "loss_terms",
    "mean_expression",
    "pixel_series",
    "rank_correlations",
    "reconstructions",
    "reliability",
    "robustness",
    "sample_efficiency",
    "segmentation",
    "strangest_curves",
    "tradeoff",
    "traversals",
]
