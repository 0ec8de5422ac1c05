"""Plots that scanpy does not have; each returns matplotlib axes."""

from mixvi.pl.clusters import component_heatmap, confidence, reliability
from mixvi.pl.expression import mean_expression
from mixvi.pl.generated import hybrid_umap, image_grid
from mixvi.pl.latent import latent
from mixvi.pl.training import loss_terms

__all__ = [
    "component_heatmap",
    "confidence",
    "hybrid_umap",
    "image_grid",
    "latent",
    "loss_terms",
    "mean_expression",
    "reliability",
]
