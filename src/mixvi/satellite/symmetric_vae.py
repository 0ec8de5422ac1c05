"""Symmetric equilibrium learning of a flat VAE of series, of any pair of exponential families.

Flach, Schlesinger and Shekhovtsov, *Symmetric equilibrium learning of VAEs*, AISTATS 2024; Hruška
2023, section 2.6.
"""

from __future__ import annotations

from collections.abc import Sequence

from anndata import AnnData

from mixvi.core import arguments
from mixvi.core.maths.exponential_families import FAMILIES
from mixvi.satellite.symmetric_hvae import SymmetricModel, SymmetricModule

LIKELIHOODS = tuple(name for name in FAMILIES if name != "categorical")
PRIORS = ("fixed", "learned")


class SymmetricVAE(SymmetricModel):
    """A code of each tile, and its segmentation, by symmetric equilibrium learning.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`. Without labels there is no segmentation.
    latent
        Family of the code: ``"bernoulli"``, ``"categorical"`` (one class of ``n_code``),
        ``"gaussian"``, ``"poisson"`` or ``"negative_binomial"``.
    likelihood
        Family of the values: ``"gaussian"``, of standardised bands; ``"bernoulli"``, of values in
        [0, 1]; ``"poisson"`` or ``"negative_binomial"``, of counts.
    prior
        Of the code: ``"fixed"``, the family's standard member, or ``"learned"``, from codes that
        the encoder draws of the data.
    n_code, n_date_code, n_place_code
        Sizes of the code of a tile and, of series, of those of each date and of each pixel.
    layers, width
        Convolutions between code and values, as for :class:`mixvi.satellite.SymmetricHVAE`; their
        maps are deterministic here.
    dream_maps, maps_key, dream_warmup, update, other_gaps
        As for :class:`mixvi.satellite.SymmetricHVAE`.
    weight_sup_q, weight_unlabelled, weight_dream
        As there.
    labelled_fraction
        As for :class:`mixvi.satellite.SymmetricHVAE`.
    variance, activation, norm, augmentation
        As there.

    Raises
    ------
    ValueError
        If a setting is unknown, height and width do not suit the layers, or values are outside the
        domain of their family.
    """

    def __init__(
        self,
        adata: AnnData | None = None,
        latent: str = "bernoulli",
        likelihood: str = "gaussian",
        prior: str = "fixed",
        n_code: int = 64,
        n_date_code: int = 16,
        n_place_code: int = 16,
        layers: str | Sequence[dict] = "auto",
        width: float = 1.0,
        dream_maps: str = "auto",
        maps_key: str | None = None,
        weight_sup_q: float | None = None,
        weight_unlabelled: float = 1.0,
        weight_dream: float = 1.0,
        dream_warmup: int | None = None,
        update: str = "alternating",
        other_gaps: float | None = None,
        labelled_fraction: float = 0.5,
        variance: str = "band",
        activation: str = "relu",
        norm: str | None = None,
        augmentation: dict | None = None,
        registry: dict | None = None,
    ):
        super().__init__(adata, registry)
        arguments.check_choice("latent", latent, FAMILIES)
        arguments.check_choice("likelihood", likelihood, LIKELIHOODS)
        arguments.check_choice("prior", prior, PRIORS)
        weights = (weight_sup_q, weight_unlabelled, weight_dream)
        of_steps = self._checked_symmetric(weights, dream_warmup, update, dream_maps, maps_key)
        options = self._checked_ladder(
            (n_code, n_date_code, n_place_code),
            other_gaps,
            variance,
            activation,
            self._settled_norm(layers, norm),
            labelled_fraction,
            augmentation,
        )
        self._likelihood = likelihood
        module = SymmetricModule(
            self._table(layers, width),
            self.shape,
            len(self.classes),
            self._by_date,
            family=None,
            code_family=latent,
            image_family=likelihood,
            learned_prior=prior == "learned",
            **of_steps,
            **options,
        )
        self._begin(module, locals(), f"SymmetricVAE with latent={latent}, likelihood={likelihood}")
