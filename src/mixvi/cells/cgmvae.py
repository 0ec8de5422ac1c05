"""CGMVAE: the Gaussian-mixture VAE under an observed condition (Kolb 2022, eqs. 5.19-5.20)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from mixvi.cells.gmvae import GMVAE
from mixvi.cells.training_means import TrainingMeansMixin
from mixvi.core import arguments
from mixvi.core.data.annotations import check_key_added
from mixvi.core.maths.mixture import reparameterise
from mixvi.core.model.counterfactual import (
    between_priors,
    converted_cells,
    write_counterfactual,
)
from mixvi.core.model.expression_model import MixviModel
from mixvi.core.model.module import Rows

ROUTES = ("shift", "w", "z")


class CGMVAE(TrainingMeansMixin, GMVAE):
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

    @torch.inference_mode()
    def counterfactual(
        self,
        adata: AnnData | None = None,
        to: str | None = None,
        *,
        indices: Sequence[int] | None = None,
        route: str = "shift",
        labels: str = "auto",
        use_mean: bool = True,
        keep_residual: bool | str = "auto",
        correct_means: bool | str = "auto",
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
            ``"shift"``: the cell's own z moves as the mean z of its component's training cells
            moves from its condition to the target, and keeps its place in its type; a component
            that was not seen under the target moves as the others do on average (after scGen,
            Lotfollahi et al. 2019). ``"w"``: z is the component's mean given the cell's w and the
            target condition, as in the thesis; close to the average of its type. ``"z"``: the
            cell's own z is decoded under the target, with whatever of the condition z still holds.
        labels
            Which component a cell is taken to be of: that of its ``"observed"`` label (predicted
            where it has none), ``"predicted"`` (components weighted by their probabilities), or
            ``"auto"``: observed if the model was trained with labels.
        use_mean
            Means throughout, or draws of w, component, z and x.
        keep_residual
            Carry over what the model leaves unexplained of each cell: the change of the decoder's
            mean is applied to the cell's own expression (counts stay counts; values that are never
            negative stay so, and zeros stay likely: which of them change is drawn). Converted
            cells then vary as cells do, while decoder means vary far less. ``"centred"``: and the
            averages of each component's converted cells are what the model expects, free of the
            noise of few cells (not for counts, nor for zeros and ones). Needs ``use_mean=True``.
            What becomes of a cell then depends on which others are converted with it. ``"auto"``:
            True with route ``"shift"`` and means; the thesis's routes give the decoder's means.
        correct_means
            Correct the decoder's means by what they miss of the training cells' (route ``"shift"``
            and means only). The mean of a component that was seen under both conditions changes as
            that of its cells does; of another, by a linear function of the means before the change
            that the others taught, and beyond that as the decoder tells them apart, as far as
            leaving each of them out shows that it can. Cells of a component are
            then taken for some of its many: their average keeps its distance from that of the
            training cells as far as it is more than chance (centred residuals). ``"auto"``: True
            with route ``"shift"`` where residuals are kept, if the model has what it takes of its
            training cells.
        key_added
            Write ``adata.layers[key_added]`` instead of returning an AnnData (all cells only).

        Returns
        -------
        AnnData of the cells converted, on the scale of the registered matrix (in ``X`` and its
        layer; count likelihoods: at the cell's own library size), with ``original_condition`` and
        ``target_condition`` in ``obs``; or None. The model's verbs take it. Route ``"shift"`` also
        writes ``support``, the log density of the moved z under the target's components, and
        ``within_support``: whether it is above what 1 % of the training cells have, of components
        seen there, when they are moved alike (with ``key_added``: into ``adata.obs``, behind that
        name).

        Raises
        ------
        ValueError
            If the condition is unknown, observed labels are asked of a model trained without,
            residuals are to be kept of draws, correction is asked of another route or of draws,
            or route ``"shift"`` or correction of a model that was saved before the means of its
            training cells were kept.

        Warns
        -----
        UserWarning
            If most of the cells (clearly, where they are few) lie outside the support, or a
            label has fewer than 5 training cells under the target.
        """
        target = self._target_condition(to)
        observed = self._by_observed_labels(labels)
        arguments.check_choice("correct_means", correct_means, ("auto", False, True))
        if correct_means == "auto":
            shifted = route == "shift" and use_mean
            correct_means = shifted and keep_residual is not False and self._keeps_fit
        keep_residual = self._check_route(route, use_mean, keep_residual, correct_means)
        adata = self._validate_anndata(adata)
        shifts, densities = None, []
        if route == "shift":
            shifts = self._training_means().shifts(target)
            self._warn_of_few(target)
        scored = route == "shift" and self._keeps_fit
        corrections = cache(lambda code: self._corrections(code, target))
        parts, means, groups = [], [], []
        n_groups = len(self.conditions) * self.n_components
        own = torch.zeros(n_groups if keep_residual == "centred" else 0, adata.n_vars)
        for rows in self._batches(adata, indices, batch_size):
            there = self.module.with_condition(rows, torch.full_like(rows.condition, target))
            weights = self._route_weights(rows, observed, use_mean)
            here, z = self._along(route, rows, there, weights, shifts, use_mean)
            decoded = self.module.decode(z, there)
            added = self._added(rows, weights, corrections) if correct_means else (0.0, 0.0)
            if keep_residual:
                x = self._carried_over(rows, self.module.decode(here, rows), decoded, added)
            else:
                x = self._drawn(decoded, there, use_mean, added[1])
            parts.append(x.cpu())
            if keep_residual == "centred":
                means.append(self._drawn(decoded, there, True, added[1]).cpu())
                groups.append((rows.condition * self.n_components + weights.argmax(-1)).cpu())
                own.index_add_(0, groups[-1], rows.dense_x.cpu())
            if scored:
                densities.append(self._training_means().log_density(z, target).cpu())
        x = torch.cat(parts).numpy()
        if keep_residual == "centred":
            expected, of = torch.cat(means), torch.cat(groups)
            if correct_means:
                expected = self._without_chance(expected, own, of, corrections)
            # cells that have the target condition already stay as they are
            moved = (of // self.n_components != target).numpy()
            x[moved] = self._centred(x[moved], expected.numpy()[moved], of.numpy()[moved])
        chosen = self._check_indices(adata, indices)
        if key_added is not None:
            write_counterfactual(adata, x, chosen, key_added, self._note["layer"])
            obs, name, converted = adata.obs, f"{key_added}_", None
        else:
            to = self.conditions[target]
            converted = converted_cells(x, adata, chosen, self.condition_key, to, **self._note)
            obs, name = converted.obs, ""
        if scored:
            self._write_support(obs, torch.cat(densities).numpy(), target, name)
        return converted

    def _calibrates(self, mode: str) -> bool:
        return mode == "semi"

    def _target_condition(self, to: str | None) -> int:
        if to is None:
            raise ValueError(
                f"Name the target condition: counterfactual(to=...), one of {self.conditions}."
            )
        return self._code(to, self.conditions, "to")

    def _by_observed_labels(self, labels: str) -> bool:
        """Whether routes take the components of observed labels."""
        arguments.check_choice("labels", labels, ("auto", "observed", "predicted"))
        if labels == "observed" and not self.trained_with_labels_:
            raise ValueError(
                "labels='observed' needs a model trained with labels, whose components they own. "
                "Use labels='predicted'."
            )
        return labels != "predicted" and self.trained_with_labels_

    def _check_route(
        self, route: str, use_mean: bool, keep_residual: bool | str, correct_means: bool
    ) -> bool | str:
        """Raise for settings that do not go together; whether residuals are kept."""
        arguments.check_choice("route", route, ROUTES)
        arguments.check_choice("keep_residual", keep_residual, ("auto", False, True, "centred"))
        if correct_means and (route != "shift" or not use_mean):
            raise ValueError(
                "correct_means=True is for cells that move as their component does: it goes with "
                "route='shift' and use_mean=True."
            )
        likelihood = self.module.likelihood
        makes_fractions = likelihood.is_count or likelihood.name == "bernoulli"
        if keep_residual == "auto":
            return route == "shift" and use_mean
        if keep_residual and not use_mean:
            raise ValueError(
                "keep_residual=True keeps each cell's own deviation; draws (use_mean=False) would "
                "add another. Choose one."
            )
        if keep_residual == "centred" and makes_fractions:
            raise ValueError(
                f"keep_residual='centred' would make fractions of counts (likelihood="
                f"{likelihood.name!r}). Use keep_residual=True."
            )
        return keep_residual

    def _route_weights(self, rows: Rows, observed: bool, use_mean: bool) -> Tensor:
        """Weights of the components that routes go through, ``(B, K)``."""
        log_pi = self._log_component_probs(rows, use_mean)
        return self.module.labelled_responsibilities(rows, log_pi) if observed else log_pi.exp()

    def _along(
        self,
        route: str,
        rows: Rows,
        there: Rows,
        weights: Tensor,
        shifts: Tensor | None,
        use_mean: bool,
    ) -> tuple[Tensor, Tensor]:
        """Z here and under the target condition, each ``(B, Dz)``."""
        if route == "w":
            return self._through_w(rows, there, weights, use_mean)
        here = self._z(rows, use_mean)
        if shifts is None:
            return here, here
        return here, here + (weights.unsqueeze(-1) * shifts[rows.condition]).sum(1)

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

    def _write_support(self, obs: pd.DataFrame, density: np.ndarray, target: int, key: str) -> None:
        """Add to ``obs`` how likely the converted cells' z is, and warn where most is not."""
        within = density >= float(self._training_fit().floors[target])
        obs[f"{key}support"], obs[f"{key}within_support"] = density, within
        # of a few cells chance alone may put most outside
        if (~within).sum() > 0.5 * len(within) + math.sqrt(len(within)):
            to = arguments.shown(self.conditions[target])
            warnings.warn(
                f"{100 * (1 - within.mean()):.0f} % of the converted cells lie farther out than "
                f"training cells do when they are moved to {to} "
                f"(obs[{key + 'within_support'!r}]): their prediction is an extrapolation.",
                UserWarning,
                stacklevel=4,
            )

    def annotate(
        self,
        adata: AnnData | None = None,
        *,
        key_added: str | None = None,
        reconstruction: bool = False,
        reject: float | None = None,
        counterfactual_to: str | None = None,
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
            The target condition.

        Warns
        -----
        UserWarning
            If keys are replaced that another class of model or the user wrote.
        """
        check_key_added(key_added)
        if counterfactual_to is not None:
            self._code(counterfactual_to, self.conditions, "counterfactual_to")
        adata = self._validate_anndata(adata)
        key = key_added or self._prefix
        found = self._annotations(adata, key, reconstruction, batch_size)
        self._annotate_rejected(found, adata, key, reject, batch_size)
        if counterfactual_to is not None:
            converted = self.counterfactual(adata, counterfactual_to, batch_size=batch_size)
            found.layers[f"{key}_counterfactual"] = converted.X
            found.notes["counterfactual_condition"] = str(counterfactual_to)
        found.write(adata)
