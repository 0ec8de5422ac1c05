"""GMVAE: the Gaussian-mixture VAE with Dirichlet or categorical prior (Kolb 2022, chapter 5)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from mixvi.cells.component_number import ComponentNumberMixin, plain_tree, tree_of_plain
from mixvi.cells.evidence import MixtureEvidenceMixin
from mixvi.cells.expression import ExpressionMixin
from mixvi.cells.generation import GenerationMixin
from mixvi.cells.gmvae_module import TERMS, GMVAEModule
from mixvi.cells.prediction import PredictionMixin
from mixvi.cells.regimes import RegimesMixin
from mixvi.core import arguments
from mixvi.core.data.annotations import Annotations, check_key_added, warn_of_outdated
from mixvi.core.model.abundance import AbundanceMixin
from mixvi.core.model.card import listed
from mixvi.core.model.expression_model import MixviModel


class GMVAE(
    RegimesMixin,
    ComponentNumberMixin,
    PredictionMixin,
    GenerationMixin,
    MixtureEvidenceMixin,
    AbundanceMixin,
    ExpressionMixin,
    MixviModel,
):
    """Gaussian-mixture VAE: clusters with probabilities, from none, some or all labels.

    The mixture lives in the latent z; its components depend on a style latent w; each cell has its
    own Dirichlet over components (Kolb 2022, eqs. 5.1-5.17).

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    n_components
        Number of components K. ``"auto"``, the default without labels: as many as the data carry.
        The start of training (:meth:`train`) makes more clusters than needed, up to 30, and merges
        those that two halves of the genes do not tell apart; the path is in ``component_path``.
        Training in several processes needs ``scvi.settings.seed`` for that.
        With labels the default is twice their number: label t owns component t, and surplus
        components are for cells without a label.
    n_latent_z, n_latent_w
        Sizes of z and w.
    y_prior
        ``"dirichlet"`` (Kolb 2022) or ``"categorical"``, fixed and uniform (Dilokthanakul et al.
        2016).
    y_posterior
        ``"network"``: a classifier of z; ``"bayes"``: the exact posterior given z and w.
    d_term
        With the Dirichlet prior: ``"analytic"`` (exact expectation), ``"sample"`` (the thesis) or
        ``"collapsed"`` (the optimum over q(d), no network).
    alpha
        Concentration of the Dirichlet prior: the smaller, the more decisive each cell.
    y_regulariser
        ``"per_cell"``: none; ``"floor"``: the y term of a cell never counts less than ``y_floor``
        nats; ``"batch_mean"``: components are used evenly over the minibatch, for the case that
        components die (with the categorical prior in place of the per-cell term).
    y_floor
        Nats that the y term of a cell counts at least, with ``y_regulariser="floor"``.
    w_free_bits
        Nats a dimension of w may use without cost (Kingma et al. 2016, "free bits"); above 0, w
        holds what varies within a component instead of collapsing to its prior.
    z_kl
        The z term in training: ``"analytic"`` or ``"mc"``.
    classification_weight
        Weight of the labelled cells' cross-entropy beside the reconstruction of all genes; 1 in the
        thesis, 50 here, as in scANVI.
    components_per_class
        How many components each label owns.
    classifier_sees_x
        Whether q(y | z) and q(d | z) see x as well.
    shared_trunk
        One encoder for z and w, or one each.
    term_weights
        Weights of ``"R"``, ``"Z"``, ``"W"``, ``"Y"``, ``"D"`` in training, 1 each.

    Examples
    --------
    >>> import mixvi
    >>> adata = mixvi.datasets.toy_conditional_blobs(n_per_group=50)
    >>> mixvi.GMVAE.setup_anndata(adata)
    >>> model = mixvi.GMVAE(adata, n_components=5, n_latent_z=2, n_latent_w=2)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> model.annotate(adata)
    """

    _prefix = "gmvae"
    _latents = ("z", "w")

    def __init__(
        self,
        adata: AnnData | None = None,
        n_components: int | str | None = None,
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
        classification_weight: float = 50.0,
        components_per_class: int = 1,
        classifier_sees_x: bool = False,
        shared_trunk: bool = True,
        term_weights: dict[str, float] | None = None,
        inject_covariates: bool = False,
        registry: dict | None = None,
    ):
        super().__init__(adata, registry)
        likelihood = self._settled_likelihood(likelihood)
        self._build(locals())

    def _build(self, init_locals: dict) -> None:
        """Check the settings and make the module; shared with the conditional model."""
        skip = ("self", "adata", "registry", "__class__", "n_components")
        settings = {k: v for k, v in init_locals.items() if k not in skip}
        _check_settings(settings)
        n_owned = len(self.classes) * settings["components_per_class"]
        n_components = self._first_number(init_locals["n_components"], n_owned)
        arguments.check_positive("n_components", n_components)
        if n_components < n_owned:
            raise ValueError(
                f"n_components={n_components} is too few for {len(self.classes)} labels with "
                f"{settings['components_per_class']} component(s) each. Use at least {n_owned}."
            )
        self._module_settings = settings
        self.trained_with_labels_ = False
        self._finish(self._made(n_components), init_locals, self._summary(n_components))

    def _made(self, n_components: int) -> GMVAEModule:
        return GMVAEModule(
            n_components=n_components, **self._module_settings, **self._module_sizes()
        )

    def _summary(self, n_components: int) -> str:
        settings = self._module_settings
        return (
            f"{type(self).__name__} with {n_components} components, likelihood="
            f"{settings['likelihood']}, y_prior={settings['y_prior']}"
        )

    def _rebuild(self, n_components: int) -> None:
        """A new module with as many components, for a model that is not trained yet."""
        self.module = self._made(n_components)
        self.init_params_["n_components"] = n_components
        self._model_summary_string = self._summary(n_components)

    @property
    def n_components(self) -> int:
        """Number of mixture components K."""
        return self.module.n_components

    def _components_text(self) -> str | None:
        used = (self.history_ or {}).get("used_components_train")
        if used is None:
            return None
        text = f"{int(used.iloc[-1, 0])} of {self.n_components} in use"
        if self.component_labels:
            text += "; labels " + listed([f"{j}: {of}" for j, of in self.component_labels.items()])
        return text

    @torch.inference_mode()
    def get_component_parameters(
        self, w: np.ndarray | None = None, condition: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances of the components p(z | w, y).

        Parameters
        ----------
        w
            Style latents ``(n, n_latent_w)``; ``None``: the mean of the prior, n = 1.
        condition
            The condition, for a conditional model.

        Returns
        -------
        Means and variances, each ``(n, K, n_latent_z)``.

        Raises
        ------
        ValueError
            If ``w`` has another width, or the condition is unknown or missing.
        """
        self._check_if_trained()
        module = self.module.eval()
        code = 0
        if self.conditions:
            if condition is None:
                raise ValueError(f"Name a condition, one of {self.conditions}.")
            code = self._condition_code(condition, "condition")
        device = module.device
        first = torch.full((1,), code, dtype=torch.long, device=device)
        if w is None:
            styles = module.w_prior(first)[0]
        else:
            styles = torch.as_tensor(np.asarray(w), dtype=torch.float32, device=device)
            if styles.ndim != 2 or styles.shape[1] != module.n_latent_w:
                raise ValueError(
                    f"w must have shape (n, {module.n_latent_w}), but has {tuple(styles.shape)}."
                )
        means, log_vars = module.component_parameters(styles, first.expand(len(styles)))
        return means.cpu().numpy(), log_vars.exp().cpu().numpy()

    def annotate(
        self,
        adata: AnnData | None = None,
        *,
        key_added: str | None = None,
        reconstruction: bool = False,
        reject: float | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Write what the model knows of each cell into the AnnData.

        ``obsm``: ``X_gmvae_z``, ``X_gmvae_w`` (means), ``X_gmvae_z_sample``,
        ``X_gmvae_w_sample``, ``gmvae_component_probs`` ``(n_obs, K)``. ``obs``:
        ``gmvae_component``, ``gmvae_confidence`` (the probability of the component) and, once
        components have labels, ``gmvae_prediction``, of which ``gmvae_confidence`` then is the
        probability. ``layers``: ``gmvae_reconstruction`` with
        ``reconstruction=True``. ``uns["gmvae"]``: settings, component labels, means of the loss
        terms, used components, active units and ``component_path``, where there is one.

        Parameters
        ----------
        adata
            Cells to annotate; default the model's own.
        key_added
            Stands for ``gmvae`` in all keys, so that several models can annotate the same cells.
        reconstruction
            Write the reconstruction, too.
        reject
            Write ``gmvae_novelty`` (:meth:`get_novelty_score`) into ``obs``, and predictions as of
            :meth:`predict` with this ``reject``.

        Warns
        -----
        UserWarning
            If keys are replaced that another class of model or the user wrote, or predictions of
            an earlier model stay where this one has no labels.
        """
        check_key_added(key_added)
        adata = self._validate_anndata(adata)
        key = key_added or self._prefix
        found = self._annotations(adata, key, reconstruction, batch_size)
        self._annotate_rejected(found, adata, key, reject, batch_size)
        found.write(adata)

    def _annotations(
        self, adata: AnnData, key: str, reconstruction: bool, batch_size: int | None
    ) -> Annotations:
        found = super()._annotations(adata, key, reconstruction, batch_size)
        probs = self.predict(adata, soft=True, batch_size=batch_size)
        found.obsm[f"{key}_component_probs"] = probs.to_numpy()
        components = pd.Series(probs.to_numpy().argmax(axis=1), index=adata.obs_names)
        used = sorted(components.unique())
        found.obs[f"{key}_component"] = pd.Categorical(
            components.astype(str), categories=[str(j) for j in used]
        )
        found.obs[f"{key}_confidence"] = probs.max(axis=1)
        notes = found.notes
        if self.assignment_ is not None:
            by_label = self._label_probs(probs)
            found.obs[f"{key}_prediction"] = pd.Categorical(by_label.idxmax(axis=1))
            found.obs[f"{key}_confidence"] = by_label.max(axis=1)
            notes["component_labels"] = {
                str(j): str(label) for j, label in self.assignment_["mapping"].items()
            }
        else:
            warn_of_outdated(adata, key, f"{key}_prediction")
        if self.module.likelihood.has_elbo:
            terms = self.get_elbo(adata, return_terms=True, batch_size=batch_size)
            notes["elbo_terms"] = terms.to_dict()
        if self.component_path is not None:
            notes["component_path"] = self.component_path
        notes["used_components"] = int((probs.mean() > 0.5 / self.n_components).sum())
        kl_w = self._kl_per_w(adata, batch_size)
        notes["kl_per_w"] = kl_w
        notes["active_w"] = int((kl_w > 0.01).sum())
        notes["active_z"] = int((found.obsm[f"X_{key}_z"].var(axis=0) > 0.01).sum())
        return found

    def _saved_state(self) -> dict:
        return super()._saved_state() | {
            "trained_with_labels": self.trained_with_labels_,
            "start_tree": plain_tree(self._start_tree),
        }

    def _restore_state(self, state: dict) -> None:
        super()._restore_state(state)
        self.trained_with_labels_ = state["trained_with_labels"]
        self._start_tree = tree_of_plain(state.get("start_tree"))


def _check_settings(settings: dict[str, Any]) -> None:
    """Raise ValueError for unknown names and unusable numbers."""
    for name, choices in {
        "y_prior": ("dirichlet", "categorical"),
        "y_posterior": ("network", "bayes"),
        "d_term": ("analytic", "sample", "collapsed"),
        "y_regulariser": ("per_cell", "floor", "batch_mean"),
        "z_kl": ("analytic", "mc"),
    }.items():
        arguments.check_choice(name, settings[name], choices)
    for name in ("n_latent_z", "n_latent_w", "n_hidden", "components_per_class"):
        arguments.check_positive(name, settings[name])
    for name in ("alpha",):
        arguments.check_positive(name, settings[name], integer=False)
    arguments.check_rate("dropout_rate", settings["dropout_rate"])
    for name in ("classification_weight", "w_free_bits"):
        if settings[name] < 0:
            raise ValueError(
                f"{name} must not be negative, but is {arguments.shown(settings[name])}."
            )
    for name in settings["term_weights"] or {}:
        arguments.check_choice("term_weights", name, TERMS)
