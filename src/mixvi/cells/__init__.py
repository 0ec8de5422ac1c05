"""Single-cell models, and procedures to train and to compare them."""

from mixvi.cells.ae import AE
from mixvi.cells.assignment import ComponentAssignment
from mixvi.cells.baselines import (
    predict_label_condition_cvae,
    predict_latent_shift,
    train_label_condition_cvae,
)
from mixvi.cells.calibration import Calibration
from mixvi.cells.cgmvae import CGMVAE
from mixvi.cells.cvae import CVAE
from mixvi.cells.evaluation import evaluate_counterfactual
from mixvi.cells.exact import train_exact
from mixvi.cells.gmvae import GMVAE
from mixvi.cells.guiding import Guidance, cluster_cells, spread_labels, train_guided
from mixvi.cells.mean_shift import (
    predict_class_means,
    predict_linear_shift,
    predict_mean_shift,
    predict_no_change,
)
from mixvi.cells.rebalancing import balanced_indices, rebalance, train_alternating
from mixvi.cells.recipes import RECIPES, Recipe, recipe
from mixvi.cells.reference import TrainingReference, training_reference
from mixvi.cells.separation import ComponentTree, component_tree
from mixvi.cells.transfer import Transfer, join_studies, transfer_labels
from mixvi.cells.vae import VAE

__all__ = [
    "AE",
    "CGMVAE",
    "CVAE",
    "GMVAE",
    "RECIPES",
    "VAE",
    "Calibration",
    "ComponentAssignment",
    "ComponentTree",
    "Guidance",
    "Recipe",
    "TrainingReference",
    "Transfer",
    "balanced_indices",
    "cluster_cells",
    "component_tree",
    "evaluate_counterfactual",
    "join_studies",
    "predict_class_means",
    "predict_label_condition_cvae",
    "predict_latent_shift",
    "predict_linear_shift",
    "predict_mean_shift",
    "predict_no_change",
    "rebalance",
    "recipe",
    "spread_labels",
    "train_alternating",
    "train_exact",
    "train_guided",
    "train_label_condition_cvae",
    "training_reference",
    "transfer_labels",
]
