"""beta-TCVAE (Chen et al. 2018; Mushom 2020, section 4.4.2)."""

from __future__ import annotations

from dataclasses import dataclass

from mixvi.core import arguments
from mixvi.core.maths.disentanglement import ESTIMATORS, kl_terms
from mixvi.core.training.steps import Loss
from mixvi.images.module import ImageModule
from mixvi.images.objectives.autoencoder import Codes
from mixvi.images.objectives.regularised import RegularisedVAE


@dataclass(frozen=True, kw_only=True)
class BetaTCVAE(RegularisedVAE):
    """A VAE and the total correlation of its codes, estimated from the minibatch.

    The records ``mutual_information``, ``total_correlation`` and ``dimension_kl`` are the
    estimator's, biased by many nats: they may be compared between epochs of one run alone.

    Attributes
    ----------
    tc_weight
        Weight of the total correlation beside the KL, which has it once: ``tc_weight = beta - 1``
        for the beta of Chen et al. 2018. It is the beta of Mushom 2020, who has 1, 3, 6 and 10.
    estimator
        ``"weighted"`` or ``"stratified"`` sampling of the minibatch.
    """

    name = "beta_tcvae"

    tc_weight: float = 1.0
    estimator: str = "weighted"

    def __post_init__(self):
        super().__post_init__()
        arguments.check_choice("estimator", self.estimator, ESTIMATORS)

    def penalty(self, nets: ImageModule, codes: Codes) -> Loss:
        """The total correlation."""
        n_data = max(nets.n_training_images, len(codes.z))
        terms = kl_terms(codes.z, codes.mu, codes.log_var, n_data, self.estimator)
        return self.tc_weight * terms.total_correlation, terms._asdict()
