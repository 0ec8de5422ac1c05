"""CGMVAE: the Gaussian-mixture VAE under an observed condition (Kolb 2022, eqs. 5.19-5.20)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from anndata import AnnData
from torch import Tensor

from mixvi.cells.gmvae import GMVAE
from mixvi.core import arguments
from mixvi.core.maths.mixture import reparameterise
from mixvi.core.model.counterfactual import (
    between_priors,
    counterfactual_adata,
    match_group_means,
    write_counterfactual,
)
from mixvi.core.model.expression_model import MixviModel
from mixvi.core.model.module import Rows

ROUTES = ("w", "z", "shift")
_FEWEST_CELLS = 5


class CGMVAE(GMVAE):
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
    """

    _needs_condition = True

    def __init__(
        self,
        adata: AnnData | None = None,
        n_components: int | None = None,
        w_prior: str = "standard",
        condition_in: str = "all",
        n_latent_z: int = 12,
        n_latent_w: int = 12,
        n_hidden: int = 256,
        n_layers: int = 2,
        dropout_rate: float = 0.15,
        use_batch_norm: bool = True,
        likelihood: str = "gaussian",
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
        arguments.check_choice("w_prior", w_prior, ("standard", "learned"))
        arguments.check_choice("condition_in", condition_in, ("all", "x_only"))
        self._build(locals())

    @torch.inference_mode()
    def counterfactual(
        self,
        adata: AnnData | None = None,
        to: str | None = None,
        *,
        indices: Sequence[int] | None = None,
        route: str = "w",
        labels: str = "auto",
        use_mean: bool = True,
        keep_residual: bool | str = False,
        key_added: str | None = None,
        batch_size: int | None = None,
    ) -> AnnData | None:
        """The same cells as they would be under another condition (Kolb 2022, section 11.3).

        Parameters
        ----------
        adata, indices
            Cells to convert.
        to
            The target condition.
        route
            ``"w"``: z is the component's mean given the cell's w and the target condition; close to
            the average of its type. ``"z"``: the cell's own z is decoded under the target, with
            whatever of the condition z still holds. ``"shift"``: the cell's own z moves as the
            mean z of its component's training cells moves from its condition to the target, and
            keeps its place in its type; a component that was not seen under the target moves as
            the others do on average (after scGen, Lotfollahi et al. 2019).
        labels
            Which component route w takes: ``"observed"`` label (predicted where there is none),
            ``"predicted"`` (components weighted by their probabilities), or ``"auto"``: observed
            if the model was trained with labels.
        use_mean
            Means throughout, or draws of w, component, z and x.
        keep_residual
            Carry over what the model leaves unexplained of each cell: the change of the decoder's
            mean is applied to the cell's own expression (counts stay counts). Converted cells then
            vary as cells do, while decoder means vary far less. ``"centred"``: and the averages of
            each component's converted cells are those of the decoder's means, free of the noise of
            few cells (not for counts). Needs ``use_mean=True``.
        key_added
            Write ``adata.layers[key_added]`` instead of returning an AnnData (all cells only).

        Returns
        -------
        AnnData of the cells converted, on the scale of the registered matrix (count likelihoods:
        the rate at the cell's own library size), with ``original_condition`` and
        ``target_condition`` in ``obs``; or None.

        Raises
        ------
        ValueError
            If the condition is unknown, observed labels are asked of a model trained without, or
            residuals are to be kept of draws.
        """
        arguments.check_choice("route", route, ROUTES)
        arguments.check_choice("labels", labels, ("auto", "observed", "predicted"))
        if to is None:
            raise ValueError(
                f"Name the target condition: counterfactual(to=...), one of {self.conditions}."
            )
        target = self._code(to, self.conditions, "to")
        if labels == "auto":
            labels = "observed" if self.trained_with_labels_ else "predicted"
        if labels == "observed" and not self.trained_with_labels_:
            raise ValueError(
                "labels='observed' needs a model trained with labels, whose components they own. "
                "Use labels='predicted'."
            )
        if keep_residual and not use_mean:
            raise ValueError(
                "keep_residual=True keeps each cell's own deviation; draws (use_mean=False) would "
                "add another. Choose one."
            )
        arguments.check_choice("keep_residual", keep_residual, (False, True, "centred"))
        if keep_residual == "centred" and self.module.likelihood.is_count:
            raise ValueError(
                f"keep_residual='centred' would make fractions of counts (likelihood="
                f"{self.module.likelihood.name!r}). Use keep_residual=True."
            )
        adata = self._validate_anndata(adata)
        shifts = None
        if route == "shift":
            shifts = self._condition_shifts(target, labels == "observed", batch_size)
        module, parts, means, groups = self.module, [], [], []
        for rows in self._batches(adata, indices, batch_size):
            there = module.with_condition(rows, torch.full_like(rows.condition, target))
            weights = self._route_weights(rows, labels == "observed", use_mean)
            if route == "w":
                here, z = self._through_w(rows, there, weights, use_mean)
            else:
                here = z = self._z(rows, use_mean)
            if shifts is not None:
                z = z + (weights.unsqueeze(-1) * shifts[rows.condition]).sum(1)
            if keep_residual:
                like = module.likelihood
                raw, raw_there = module.decode(here, rows), module.decode(z, there)
                x = like.carry_over(rows.dense_x, raw, raw_there, rows.library, rows.batch)
                means.append(like.mean(raw_there, rows.library).cpu())
                groups.append(weights.argmax(-1).cpu())
            else:
                x = self._decoded(z, there, use_mean)
            parts.append(x.cpu())
        chosen = self._check_indices(adata, indices)
        x = torch.cat(parts).numpy()
        if keep_residual == "centred":
            nonnegative = module.likelihood.output_activation is not None
            decoded, of = torch.cat(means).numpy(), torch.cat(groups).numpy()
            x = match_group_means(x, decoded, of, nonnegative)
        if key_added is not None:
            write_counterfactual(adata, x, chosen, key_added)
            if self._prefix in adata.uns:
                adata.uns[self._prefix]["counterfactual_condition"] = str(to)
            return None
        return counterfactual_adata(adata, x, chosen, self.condition_key, to)

    def _route_weights(self, rows: Rows, observed: bool, use_mean: bool) -> Tensor:
        """Weights of the components that routes go through, ``(B, K)``."""
        log_pi = self._log_component_probs(rows, use_mean)
        return self.module.labelled_responsibilities(rows, log_pi) if observed else log_pi.exp()

    def _through_w(
        self, rows: Rows, there: Rows, weights: Tensor, use_mean: bool
    ) -> tuple[Tensor, Tensor]:
        """Z from the components given w, here and under the target condition, each ``(B, Dz)``."""
        module = self.module
        posterior = module.encode(rows)
        w = posterior["mu_w"] if use_mean else reparameterise(posterior["mu_w"], posterior["lv_w"])
        w_there = between_priors(w, module.w_prior(rows.condition), module.w_prior(there.condition))
        means, log_vars = module.component_parameters(w_there, there.condition)
        if not use_mean:
            drawn = torch.multinomial(weights, 1).squeeze(-1)
            row = torch.arange(len(drawn), device=drawn.device)
            z = reparameterise(means[row, drawn], log_vars[row, drawn])
            return z, z
        here = (weights.unsqueeze(-1) * module.component_parameters(w, rows.condition)[0]).sum(1)
        return here, (weights.unsqueeze(-1) * means).sum(1)

    def _condition_shifts(self, target: int, observed: bool, batch_size: int | None) -> Tensor:
        """How mean z of each component's training cells differs from the target, ``(C, K, Dz)``."""
        if self.adata is None:
            raise ValueError(
                "route='shift' averages over the training cells, but the model was loaded without "
                "them. Load it with adata=..., or use route='w' or 'z'."
            )
        module = self.module
        shape = (len(self.conditions), module.n_components)
        n = torch.zeros(*shape, 1, device=module.device)
        total = torch.zeros(*shape, module.n_latent_z, device=module.device)
        for rows in self._batches(self.adata, self.train_indices, batch_size):
            weights = self._route_weights(rows, observed, use_mean=True)
            n.index_add_(0, rows.condition, weights.unsqueeze(-1))
            z = self._z(rows, use_mean=True)
            total.index_add_(0, rows.condition, weights.unsqueeze(-1) * z.unsqueeze(1))
        means = total / n.clamp_min(1.0)
        shifts = means[target] - means
        # a handful of cells gives no mean; its component moves as the others do
        seen = (n >= _FEWEST_CELLS) & (n[target] >= _FEWEST_CELLS)
        average = (shifts * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp_min(1)
        return torch.where(seen, shifts, average)

    def annotate(
        self,
        adata: AnnData | None = None,
        *,
        reconstruction: bool = False,
        counterfactual_to: str | None = None,
        batch_size: int | None = None,
    ) -> None:
        """As :meth:`mixvi.GMVAE.annotate`, and on demand the counterfactual.

        With ``counterfactual_to``, ``layers["gmvae_counterfactual"]`` holds every cell under that
        condition (route w), and ``uns["gmvae"]["counterfactual_condition"]`` names it.
        """
        adata = self._validate_anndata(adata)
        if counterfactual_to is not None:
            self._code(counterfactual_to, self.conditions, "counterfactual_to")
        super().annotate(adata, reconstruction=reconstruction, batch_size=batch_size)
        if counterfactual_to is not None:
            self.counterfactual(
                adata,
                counterfactual_to,
                key_added=f"{self._prefix}_counterfactual",
                batch_size=batch_size,
            )
