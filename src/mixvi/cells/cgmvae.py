"""CGMVAE: the Gaussian-mixture VAE under an observed condition (Kolb 2022, eqs. 5.19-5.20)."""

from __future__ import annotations

from typing import Any

from anndata import AnnData

from mixvi.cells.conversion import ConversionMixin
from mixvi.cells.gmvae import GMVAE
from mixvi.cells.training_means import TrainingMeansMixin
from mixvi.core import arguments
from mixvi.core.data.annotations import check_key_added
from mixvi.core.model.expression_model import MixviModel


class CGMVAE(ConversionMixin, TrainingMeansMixin, GMVAE):
    """Conditional Gaussian-mixture VAE: clusters across conditions, and cells under another one.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata` and a ``condition_key``.
    w_prior
        ``"standard"``: w is N(0, I) and mixes the conditions (for counterfactuals and generation);
        ``"learned"``: p(w | c), w separates them.
    condition_in
        ``"all"``: every network sees the condition (the thesis); ``"x_only"``: encoder and decoder.
    classification_weight
        Weight of the labelled cells' cross-entropy; 1 as in the thesis, because a large weight
        pulls z towards labels and away from expression; 50, as :class:`mixvi.GMVAE` has, labels
        new cells better.
    """

    _needs_condition = True

    def __init__(
        self,
        adata: AnnData | None = None,
        n_components: int | str | None = None,
        w_prior: str = "standard",
        condition_in: str = "all",
        n_latent_z: int = 12,
        n_latent_w: int = 12,
        n_hidden: int = 256,
        n_layers: int = 2,
        dropout_rate: float = 0.15,
        use_batch_norm: bool = True,
        likelihood: str = "auto",
        output_activation: str | None = None,
        sigma: str = "feature",
        dispersion: str = "gene",
        y_prior: str = "dirichlet",
        y_posterior: str = "network",
        d_term: str = "analytic",
        alpha: float = 1.0,
        y_regulariser: str = "per_cell",
        y_floor: float = 0.5,
        w_free_bits: float = 0.0,
        z_kl: str = "analytic",
        classification_weight: float = 1.0,
        components_per_class: int = 1,
        classifier_sees_x: bool = False,
        shared_trunk: bool = True,
        term_weights: dict[str, float] | None = None,
        inject_covariates: bool = False,
        registry: dict | None = None,
    ):
        MixviModel.__init__(self, adata, registry)
        likelihood = self._settled_likelihood(likelihood)
        arguments.check_choice("w_prior", w_prior, ("standard", "learned"))
        arguments.check_choice("condition_in", condition_in, ("all", "x_only"))
        self._build(locals())

    def _calibrates(self, mode: str) -> bool:
        return mode == "semi"

    def annotate(
        self,
        adata: AnnData | None = None,
        *,
        key_added: str | None = None,
        reconstruction: bool = False,
        reject: float | None = None,
        counterfactual_to: Any = None,
        batch_size: int | None = None,
    ) -> None:
        """As :meth:`mixvi.GMVAE.annotate`, and on demand the counterfactual.

        With ``counterfactual_to``, ``layers["gmvae_counterfactual"]`` holds every cell under that
        condition (as of :meth:`counterfactual`), and ``uns["gmvae"]["counterfactual_condition"]``
        names it.

        Parameters
        ----------
        adata, key_added, reconstruction, reject
            See :meth:`mixvi.GMVAE.annotate`. Where a GMVAE annotates the same cells, pass
            ``key_added="cgmvae"``.
        counterfactual_to
            The target condition, as in :meth:`counterfactual`.

        Warns
        -----
        UserWarning
            If keys are replaced that another class of model or the user wrote.
        """
        check_key_added(key_added)
        if counterfactual_to is not None:
            self._targets(counterfactual_to)
        adata = self._validate_anndata(adata)
        key = key_added or self._prefix
        found = self._annotations(adata, key, reconstruction, batch_size)
        self._annotate_rejected(found, adata, key, reject, batch_size)
        if counterfactual_to is not None:
            converted = self.counterfactual(adata, counterfactual_to, batch_size=batch_size)
            found.layers[f"{key}_counterfactual"] = converted.X
            names = converted.obs["target_condition"].unique()
            found.notes["counterfactual_condition"] = ", ".join(map(str, names))
        found.write(adata)
