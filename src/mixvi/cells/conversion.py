"""Cells of a conditional mixture model under another condition (Kolb 2022, section 11.3)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from mixvi.cells.between_conditions import Target, between
from mixvi.cells.decoder_fit import Corrections
from mixvi.cells.training_means import Groups
from mixvi.core import arguments
from mixvi.core.data.fields import name_of
from mixvi.core.maths.mixture import reparameterise
from mixvi.core.model.counterfactual import (
    between_priors,
    converted_cells,
    write_counterfactual,
)
from mixvi.core.model.module import Rows

ROUTES = ("shift", "w", "z")


class ConversionMixin:
    """``counterfactual``: by which route, with which corrections, between which conditions."""

    @torch.inference_mode()
    def counterfactual(
        self,
        adata: AnnData | None = None,
        to: str | float | None = None,
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
            The target condition. Where three conditions or more are numbers (doses, hours), also
            one between two of them: the average of what both give, by how near it is to each.
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
            that of its cells does. One that was not, but under yet another condition, changes as
            the decoder says; one that was seen under its own condition alone, by a linear function
            of the means before the change that the others taught, and beyond that as the decoder
            tells them apart, as far as leaving each of them out shows that it can. Cells of a
            component are then taken for some of its many: their average keeps its distance from
            that of the training cells as far as it is more than chance (centred residuals).
            ``"auto"``: True with route ``"shift"`` where residuals are kept, if the model has what
            it takes of its training cells.
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
            draws of a number between two conditions, or route ``"shift"`` or correction of a model
            that was saved before the means of its training cells were kept.

        Warns
        -----
        UserWarning
            If most of the cells (clearly, where they are few) lie outside the support, a label has
            fewer than 5 training cells under the target, or a number lies beyond the conditions,
            of which the nearest one is taken.
        """
        target = self._target(to)
        observed = self._by_observed_labels(labels)
        arguments.check_choice("correct_means", correct_means, ("auto", False, True))
        if correct_means == "auto":
            shifted = route == "shift" and use_mean
            correct_means = shifted and keep_residual is not False and self._keeps_fit
        keep_residual = self._check_route(route, use_mean, keep_residual, correct_means)
        if len(target.codes) > 1 and not use_mean:
            raise ValueError(
                f"to={arguments.shown(to)} lies between two conditions, of whose means an average "
                "is taken; draws have none. Use use_mean=True."
            )
        adata = self._validate_anndata(adata)
        ends = [self._end(code, route, correct_means) for code in target.codes]
        scored = route == "shift" and self._keeps_fit
        groups = Groups(len(self.conditions), self.n_components)
        parts, densities = [], []
        for rows in self._batches(adata, indices, batch_size):
            weights = self._route_weights(rows, observed, use_mean)
            places = [self._place(route, rows, weights, end, use_mean) for end in ends]
            there = self._averaged(places, target)
            if keep_residual:
                here = self.module.decode(places[0].here, rows)
                x = self._carried_over(rows, here, there.raw, (there.added_here, there.added))
            else:
                x = self._drawn(there.raw, there.rows, use_mean, there.added)
            parts.append(x.cpu())
            if keep_residual == "centred":
                mean = self._drawn(there.raw, there.rows, True, there.added)
                groups.add(rows.condition, weights, rows.dense_x, mean)
            if scored:
                densities.append(self._log_density(places, target).cpu())
        x = torch.cat(parts).numpy()
        if keep_residual == "centred":
            x = self._centred_groups(x, groups, target, correct_means)
        chosen = self._check_indices(adata, indices)
        if key_added is not None:
            write_counterfactual(adata, x, chosen, key_added, self._note["layer"])
            obs, name, converted = adata.obs, f"{key_added}_", None
        else:
            key, note = self.condition_key, self._note
            converted = converted_cells(x, adata, chosen, key, target.name, **note)
            obs, name = converted.obs, ""
        if scored:
            self._write_support(obs, torch.cat(densities).numpy(), target, name)
        return converted

    def _target(self, to: Any) -> Target:
        """The condition of that name, or the two that are numbers around it."""
        if to is None:
            raise ValueError(
                f"Name the target condition: counterfactual(to=...), one of {self.conditions}."
            )
        if name_of(to) not in map(name_of, self.conditions):
            target = between(to, self.conditions)
            if target is not None:
                return target
        code = self._code(to, self.conditions, "to")
        return Target(self.conditions[code], [code], [1.0])

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

    def _end(self, code: int, route: str, correct_means: bool) -> _End:
        """What cells need to be converted to a condition that was seen."""
        shifts = None
        if route == "shift":
            shifts = self._training_means().shifts(code)
            self._warn_of_few(code)
        corrections = cache(lambda source: self._corrections(source, code))
        return _End(code, shifts, corrections if correct_means else None)

    def _place(self, route: str, rows: Rows, weights: Tensor, end: _End, use_mean: bool) -> _Place:
        """Where cells of the ``weights`` ``(B, K)`` come to lie."""
        there = self.module.with_condition(rows, torch.full_like(rows.condition, end.code))
        if route == "w":
            here, z = self._through_w(rows, there, weights, use_mean)
        else:
            here = z = self._z(rows, use_mean)
        if end.shifts is not None:
            z = here + (weights.unsqueeze(-1) * end.shifts[rows.condition]).sum(1)
        added = (0.0, 0.0)
        if end.corrections is not None:
            added = self._added(rows, weights, end.corrections)
        return _Place(here, z, there, self.module.decode(z, there), *added)

    def _averaged(self, places: Sequence[_Place], target: Target) -> _Place:
        """One place, the means of which are the average of several."""
        first = places[0]
        if len(places) == 1:
            return first
        means = [self.module.likelihood.mean(p.raw, p.rows.library) for p in places]
        average = target.average(mean + p.added for mean, p in zip(means, places, strict=True))
        return first._replace(added=average - means[0])

    def _log_density(self, places: Sequence[_Place], target: Target) -> Tensor:
        """Of z under the components of the target, ``(B,)``."""
        means = self._training_means()
        pairs = zip(places, target.codes, strict=True)
        return target.average(means.log_density(place.z, code) for place, code in pairs)

    def _centred_groups(
        self, x: np.ndarray, groups: Groups, target: Target, corrected: bool
    ) -> np.ndarray:
        """Converted cells ``(n, G)`` with the averages that are expected of their groups."""
        means, of = groups.means, groups.of
        if corrected:
            expected = cache(lambda code: self._averaged_corrections(code, target).expected)
            means = self._without_chance(means, groups.own, of, expected)
        # cells that have the target condition already stay as they are
        moved = np.ones(len(x), bool)
        if len(target.codes) == 1:
            moved = (of // self.n_components != target.codes[0]).numpy()
        x[moved] = self._centred(x[moved], means.numpy()[moved], of.numpy()[moved])
        return x

    def _write_support(
        self, obs: pd.DataFrame, density: np.ndarray, target: Target, key: str
    ) -> None:
        """Add to ``obs`` how likely the converted cells' z is, and warn where most is not."""
        floors = self._training_fit().floors[target.codes].cpu().numpy()
        within = density >= float(floors @ target.shares)
        obs[f"{key}support"], obs[f"{key}within_support"] = density, within
        # of a few cells chance alone may put most outside
        if (~within).sum() > 0.5 * len(within) + math.sqrt(len(within)):
            warnings.warn(
                f"{100 * (1 - within.mean()):.0f} % of the converted cells lie farther out than "
                f"training cells do when they are moved to {arguments.shown(target.name)} "
                f"(obs[{key + 'within_support'!r}]): their prediction is an extrapolation.",
                UserWarning,
                stacklevel=4,
            )


class _End(NamedTuple):
    """A condition that was seen, to which cells are converted."""

    code: int
    shifts: Tensor | None
    """Of z, ``(C, K, Dz)``; None of routes that have none."""
    corrections: Callable[[int], Corrections] | None
    """Of the code of the condition that cells have; None if nothing is corrected."""


class _Place(NamedTuple):
    """Cells before and after."""

    here: Tensor
    """Z before, ``(B, Dz)``."""
    z: Tensor
    rows: Rows
    """The cells with the target condition."""
    raw: Tensor
    """What the decoder makes of them."""
    added_here: Tensor | float
    """What correction adds to the decoder's means before, ``(B, G)``, and after."""
    added: Tensor | float
