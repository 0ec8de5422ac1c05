"""Cells of a conditional mixture model under another condition (Kolb 2022, section 11.3)."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from mixvi.cells.between_conditions import Target, between, combined
from mixvi.cells.decoder_fit import Corrections
from mixvi.cells.training_means import Groups
from mixvi.core import arguments
from mixvi.core.data.combinations import columns_of
from mixvi.core.data.fields import name_of
from mixvi.core.data.keys import CONDITION_KEY, PREDICTION_KEY
from mixvi.core.maths.additive import combination_levels
from mixvi.core.maths.mixture import reparameterise
from mixvi.core.model.counterfactual import (
    between_priors,
    converted_cells,
    write_counterfactual,
)
from mixvi.core.model.module import Rows

ROUTES = ("shift", "w", "z")
# that of scvi.settings.verbosity
_LOGGER = logging.getLogger("scvi")


class ConversionMixin:
    """``counterfactual``: by which route, with which corrections, between which conditions."""

    @torch.inference_mode()
    def counterfactual(
        self,
        adata: AnnData | None = None,
        to: Any = None,
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
            one between two of them: the average of what both give, by how near it is to each. Of
            several condition columns a dict, such as ``{"stimulus": "LPS", "time": "6h"}``; cells
            keep their own category of a column that it leaves out. A combination that was never
            seen together is taken to be what the columns' effects add up to, see Notes.
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
        ``target_condition`` in ``obs``; or None. The model's verbs take it. If target combinations
        were never seen, ``uns["mixvi_prediction"]["network_share"]`` is how far the network's
        departure from additive effects was followed, where means are corrected. Route ``"shift"``
        also writes ``support``, the log density of the moved z under the target's components, and
        ``within_support``: whether it is above what 1 % of the training cells have, of components
        seen there, when they are moved alike (with ``key_added``: into ``adata.obs``, behind that
        name).

        Raises
        ------
        ValueError
            If the condition or a column is unknown, a combination that cells have or are to have
            was never seen and lies where the effects of its columns cannot be told apart, observed
            labels are asked of a model trained without, no component has 5 training cells both
            under the cells' condition and under the target (route ``"shift"``), residuals are to be
            kept of draws, correction is asked of another route or of draws, draws of a number
            between two conditions, or route ``"shift"`` or correction of a model that was saved
            before the means of its training cells were kept.

        Warns
        -----
        UserWarning
            If most of the cells (clearly, where they are few) lie outside the support, a label has
            fewer than 5 training cells under the target or the cells' condition, or a number lies
            beyond the conditions, of which the nearest one is taken.

        Notes
        -----
        Of a component, effects of each column are fitted by least squares to the means of the
        combinations that have 5 training cells or more, all counting alike: to those of z and, if
        means are corrected, of expression, of counts as log1p of their share of 10,000. Beyond them
        the network's departure from what its own means add up to counts, by the share in [0, 1/2]
        that explains more than chance of what effects miss of seen combinations, each left out in
        turn. The network was trained on those, so that the share rather says that effects do not
        add up than that the network is right.
        """
        targets = self._targets(to)
        observed = self._by_observed_labels(labels)
        arguments.check_choice("correct_means", correct_means, ("auto", False, True))
        if correct_means == "auto":
            shifted = route == "shift" and use_mean
            correct_means = shifted and keep_residual is not False and self._keeps_fit
        keep_residual = self._check_route(route, use_mean, keep_residual, correct_means)
        if any(len(target.codes) > 1 for target in targets) and not use_mean:
            raise ValueError(
                f"to={arguments.shown(to)} lies between two conditions, of whose means an average "
                "is taken; draws have none. Use use_mean=True."
            )
        adata = self._validate_anndata(adata)
        chosen = self._check_indices(adata, indices)
        how = _How(route, observed, use_mean, keep_residual, correct_means)
        parts = self._by_target(adata, chosen, targets, shifted=route == "shift")
        if route == "shift":
            self._check_sides(adata, chosen, parts)
        found = []
        for target, places in parts:
            ends = [self._end(code, route, correct_means) for code in target.codes]
            batches = self._batches(adata, chosen[places], batch_size)
            found.append(self._converted_to(target, ends, batches, how))
        order = np.concatenate([places for _, places in parts]).argsort()
        x, density, within = (np.concatenate(of)[order] for of in zip(*found, strict=True))
        if key_added is not None:
            write_counterfactual(adata, x, chosen, key_added, self._note["layer"])
            obs, name, converted = adata.obs, f"{key_added}_", None
        else:
            names = [target.name for target, places in parts for _ in places]
            names = [names[place] for place in order] if self._has_combinations else names[0]
            key, note = self.condition_key, self._note
            converted = converted_cells(x, adata, chosen, key, names, **note)
            obs, name = converted.obs, ""
        if route == "shift" and self._keeps_fit:
            obs[f"{name}support"], obs[f"{name}within_support"] = density, within
            self._warn_of_extrapolation(within, targets, f"{name}within_support")
        if correct_means:
            self._tell_of_unseen([target for target, _ in parts], converted)
        return converted

    def _converted_to(
        self, target: Target, ends: Sequence[_End], batches: Iterable[Rows], how: _How
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cells ``(n, G)``, log density of their z, and whether that is usual there, ``(n,)``."""
        groups = Groups(len(self.conditions), self.n_components)
        parts, densities = [], []
        for rows in batches:
            weights = self._route_weights(rows, how.observed, how.use_mean)
            places = [self._place(how.route, rows, weights, end, how.use_mean) for end in ends]
            there = self._averaged(places, target)
            if how.keep_residual:
                here = self.module.decode(places[0].here, rows)
                x = self._carried_over(rows, here, there.raw, (there.added_here, there.added))
            else:
                x = self._drawn(there.raw, there.rows, how.use_mean, there.added)
            parts.append(x.cpu())
            if how.keep_residual == "centred":
                mean = self._drawn(there.raw, there.rows, True, there.added)
                groups.add(rows.condition, weights, rows.dense_x, mean)
            if how.route == "shift" and self._keeps_fit:
                densities.append(self._log_density(places, target).cpu())
        x = torch.cat(parts).numpy()
        if how.keep_residual == "centred":
            x = self._centred_groups(x, groups, target, how.correct_means)
        if not densities:
            return x, np.full(len(x), np.nan), np.ones(len(x), bool)
        density = torch.cat(densities).numpy()
        floors = self._training_fit().floors[target.codes].cpu().numpy()
        return x, density, density >= float(floors @ target.shares)

    def _by_target(
        self, adata: AnnData, chosen: np.ndarray, targets: Sequence[Target], *, shifted: bool
    ) -> list[tuple[Target, np.ndarray]]:
        """Targets, and the places of their cells among those that were ``chosen``.

        Raises ValueError if cells are to be ``shifted`` from a combination that nothing tells of.
        """
        if not len(chosen) or not self._has_combinations:
            return [(targets[0], np.arange(len(chosen)))]
        manager = self.get_anndata_manager(adata, required=True)
        own = np.asarray(manager.get_from_registry(CONDITION_KEY)).ravel()[chosen]
        if shifted:
            for code in np.unique(own).tolist():
                if targets[code].codes != [code]:
                    self._check_told(code)
        # cells of several conditions may have one target
        same = {code: targets[code].codes for code in np.unique(own).tolist()}
        first = {code: next(c for c in same if same[c] == same[code]) for code in same}
        groups = np.array([first[code] for code in own.tolist()])
        return [(targets[code], np.flatnonzero(groups == code)) for code in np.unique(groups)]

    def _targets(self, to: Any) -> list[Target]:
        """What cells are converted to, by the code of the condition that they have."""
        if to is None:
            raise ValueError(
                f"Name the target condition: counterfactual(to=...), one of {self.conditions}."
            )
        keys, known = columns_of(self.condition_key), self._condition_categories
        n, sizes = len(self.conditions), self._condition_sizes
        if not isinstance(to, Mapping):
            if not self._has_combinations:
                return [self._column_target(to, self.conditions, "to")] * n
            code = self._condition_code(to, "to")
            return [Target(self.conditions[code], [code], [1.0])] * n
        named = {
            key: self._column_target(value, known[keys.index(key)], f"to[{key!r}]")
            for key, value in self._named_columns(to, "to").items()
        }
        if len(keys) == 1:
            return [named[keys[0]]] * n
        if len(named) == len(keys):
            return [combined(list(named.values()), sizes)] * n
        own = [
            [Target(names[i], [int(i)], [1.0]) for i, names in zip(levels, known, strict=True)]
            for levels in combination_levels(sizes)
        ]
        pairs = [zip(keys, of, strict=True) for of in own]
        return [combined([named.get(key, kept) for key, kept in of], sizes) for of in pairs]

    def _column_target(self, to: Any, known: list, argument: str) -> Target:
        """The category of that name, or the two that are numbers around it."""
        if to is None:
            raise ValueError(f"{argument} is None. Name one of {known}.")
        if name_of(to) not in map(name_of, known):
            target = between(to, known)
            if target is not None:
                return target
        code = self._code(to, known, argument)
        return Target(known[code], [code], [1.0])

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
            self._check_told(code)
            shifts = self._training_means().shifts(code)
        corrections = cache(lambda source: self._corrections(source, code))
        return _End(code, shifts, corrections if correct_means else None)

    def _check_told(self, code: int) -> None:
        """Raise for a combination that was never seen, and that effects do not tell."""
        if self._has_combinations and not self._training_means().enough[code].any():
            raise ValueError(
                f"{name_of(self.conditions[code])!r} was never seen in training, and the effects "
                f"of {' and '.join(map(repr, self.condition_key))} cannot be told apart there: no "
                "chain of combinations with 5 training cells or more links its categories. Train "
                "with cells of combinations that link them, or see what the network makes of it "
                "with route='z'."
            )

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

    def _warn_of_extrapolation(
        self, within: np.ndarray, targets: Sequence[Target], key: str
    ) -> None:
        """Warn where most of the converted cells' z is not usual there."""
        # of a few cells chance alone may put most outside
        if (~within).sum() > 0.5 * len(within) + math.sqrt(len(within)):
            names = list(dict.fromkeys(target.name for target in targets))
            to = arguments.shown(names[0]) if len(names) == 1 else "other conditions"
            warnings.warn(
                f"{100 * (1 - within.mean()):.0f} % of the converted cells lie farther out than "
                f"training cells do when they are moved to {to} "
                f"(obs[{key!r}]): their prediction is an extrapolation.",
                UserWarning,
                stacklevel=4,
            )

    def _tell_of_unseen(self, targets: Sequence[Target], converted: AnnData | None) -> None:
        """Say which combinations were made of others, and how far the network was followed."""
        if not self._has_combinations:
            return
        seen, all_of = self._seen_means().enough.cpu(), self._training_means().enough.cpu()
        made = [code for target in targets for code in target.codes if (all_of > seen)[code].any()]
        if not made:
            return
        found = self._completed()
        names = ", ".join(dict.fromkeys(repr(name_of(self.conditions[code])) for code in made))
        columns = " and ".join(map(repr, self.condition_key))
        _LOGGER.info(
            f"{names}: never seen, so that means are what the effects of {columns} add up to, and "
            f"{found.network_share:.2f} of what the network says beyond ({found.n_left_out} means "
            "were left out to find that)."
        )
        if converted is not None:
            converted.uns[PREDICTION_KEY]["network_share"] = found.network_share


class _How(NamedTuple):
    """Settings of a conversion, checked, as in :meth:`ConversionMixin.counterfactual`."""

    route: str
    observed: bool
    use_mean: bool
    keep_residual: bool | str
    correct_means: bool


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
