"""What a conditional model keeps of its training cells' means, and what follows from it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy.stats import norm
from torch import Tensor

from mixvi.cells.between_conditions import Target
from mixvi.cells.combinations import CompletedFit, completed_fit, completed_means
from mixvi.cells.decoder_fit import Corrections, DecoderFit, FitSums
from mixvi.cells.shifting import FEWEST_CELLS, ConditionMeans
from mixvi.core import arguments
from mixvi.core.data import checks
from mixvi.core.data.fields import name_of
from mixvi.core.data.keys import CONDITION_KEY
from mixvi.core.model.module import Rows

_TINY = 1e-12


class Groups:
    """Converted cells by the condition and the component that they are of."""

    def __init__(self, n_conditions: int, n_components: int):
        self.n_conditions, self.n_components = n_conditions, n_components
        self._of: list[Tensor] = []
        self._means: list[Tensor] = []
        self.own = torch.zeros(0, 0)

    def add(self, condition: Tensor, weights: Tensor, x: Tensor, mean: Tensor) -> None:
        """Cells' codes ``(B,)``, weights ``(B, K)``, own values and means there, ``(B, G)``."""
        of = (condition * self.n_components + weights.argmax(-1)).cpu()
        if not self._of:
            self.own = torch.zeros(self.n_conditions * self.n_components, x.shape[1])
        self.own.index_add_(0, of, x.cpu())
        self._of.append(of)
        self._means.append(mean.cpu())

    @property
    def of(self) -> Tensor:
        """``condition * K + component`` of each cell, ``(n,)``."""
        return torch.cat(self._of)

    @property
    def means(self) -> Tensor:
        """Of the converted cells, ``(n, G)``."""
        return torch.cat(self._means)


class TrainingMeansMixin:
    """Means of the training cells by condition and component, kept with the model."""

    _condition_means: ConditionMeans | None = None
    _decoder_fit: DecoderFit | None = None
    # the same with combinations of condition columns that were never seen
    _completed_means: ConditionMeans | None = None
    _completed_fit: CompletedFit | None = None

    @torch.inference_mode()
    def get_mean_change(
        self,
        adata: AnnData | None = None,
        to: Any = None,
        *,
        indices: Sequence[int] | None = None,
        groupby: str | None = None,
        labels: str = "auto",
        correct_means: bool = True,
        level: float = 0.9,
        n_real: int | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """How the mean of each gene changes under another condition, with an interval.

        Of a component that was seen under both conditions, the interval is as wide as the means of
        so many training cells vary by chance; of any other, as the changes of the seen ones were
        missed when each was left out, so that it is the wider the more they differ. So it is of a
        combination of columns that was never seen, by the seen ones that can be left out; of two by
        two none can, and the interval holds chance alone. Draws of z would tell neither: over many
        cells they average out.

        Parameters
        ----------
        adata, indices
            Cells to convert.
        to
            The target condition, a number between two, or combination, as in
            :meth:`counterfactual`.
        groupby
            Column of ``obs``: changes of each group; ``None``: of all cells.
        labels, correct_means
            As in :meth:`counterfactual`.
        level
            Share of genes whose change the interval is to hold.
        n_real
            Number of cells under the target that the change will be compared with: chance in their
            mean, and in that of the cells converted, then counts as well. ``None``: the interval
            is of the expected change.

        Returns
        -------
        DataFrame with a row a group and gene, and columns ``group``, ``gene``, ``change``,
        ``lower`` and ``upper``; of counts, of their share of the cell's library.

        Raises
        ------
        KeyError, ValueError
            As :meth:`counterfactual`; also for a level outside (0, 1), or ``n_real`` below one.
        """
        targets = self._targets(to)
        arguments.check_bool("correct_means", correct_means)
        arguments.check_share("level", level)
        if n_real is not None:
            arguments.check_positive("n_real", n_real)
        observed = self._by_observed_labels(labels)
        adata = self._validate_anndata(adata)
        chosen = self._check_indices(adata, indices)
        groups = np.full(len(chosen), "all")
        if groupby is not None:
            checks.check_categories(adata, groupby, "groupby")
            groups = adata.obs[groupby].astype(str).to_numpy()[chosen]
        parts = self._by_target(adata, chosen, targets, shifted=True)
        self._check_sides(adata, chosen, parts)
        groups = np.concatenate([groups[places] for _, places in parts])
        changes, shares, codes = [], [], []
        for target, of_target in parts:
            ends = [self._end(code, "shift", False) for code in target.codes]
            for rows in self._batches(adata, chosen[of_target], batch_size):
                weights = self._route_weights(rows, observed, use_mean=True)
                places = [self._place("shift", rows, weights, end, True) for end in ends]
                after = target.average(self._at_library_one(p.z, p.rows) for p in places)
                changes.append((after - self._at_library_one(places[0].here, rows)).cpu())
                shares.append(weights.cpu())
                codes.append(rows.condition.cpu())
        changes, shares, codes = (torch.cat(of) for of in (changes, shares, codes))
        found = {
            code: self._averaged_corrections(code, targets[code])
            for code in codes.unique().tolist()
        }
        wide, tables = norm.ppf(0.5 + level / 2), []
        for group in np.unique(groups):
            rows = torch.as_tensor(groups == group)
            change, variance = changes[rows].mean(0), torch.zeros(changes.shape[1])
            for code, corrections in found.items():
                share = (shares[rows] * (codes[rows] == code).unsqueeze(-1)).mean(0)
                variance += share.square() @ corrections.variance.cpu()
                if correct_means:
                    change = change + share @ corrections.change.cpu()
                if n_real is not None:
                    n_cells = n_real, int(rows.sum())
                    target = targets[code]
                    chance = (self._chance(code, end, *n_cells).cpu() for end in target.codes)
                    variance += share @ target.average(chance)
            half = wide * variance.sqrt()
            columns = {"change": change, "lower": change - half, "upper": change + half}
            columns = {name: of.numpy() for name, of in columns.items()}
            tables.append(pd.DataFrame({"group": group, "gene": adata.var_names} | columns))
        return pd.concat(tables, ignore_index=True)

    def _chance(self, source: int, target: int, n_real: int, n: int) -> Tensor:
        """Variance of the means of real and of converted cells by component, ``(K, G)``."""
        fit, enough = self._training_fit(), self._training_means().enough
        of = []
        for code, n_cells in ((target, n_real), (source, n)):
            known = enough[code].unsqueeze(-1)
            average = (fit.variance[code] * known).sum(0) / known.sum().clamp_min(1)
            of.append(torch.where(known, fit.variance[code], average) / n_cells)
        return of[0] + of[1]

    def _at_library_one(self, z: Tensor, rows: Rows) -> Tensor:
        """The decoder's mean ``(B, G)``; of counts, at a library size or size factor of one."""
        one = torch.ones_like(rows.library)
        return self.module.likelihood.mean(self.module.decode(z, rows), one)

    @torch.inference_mode()
    def _corrections(self, source: int, target: int) -> Corrections:
        """What the decoder misses of the training cells' change, see :class:`DecoderFit`."""
        is_count = self.module.likelihood.is_count
        means, error = self._training_means(), self._completed().error
        error = error if error is None else error.to(self.module.device)
        options = source, target, is_count, error
        return self._training_fit().corrections(means, self._typical_mean, *options)

    def _typical_mean(self, z: Tensor, code: int) -> Tensor:
        """The decoder's mean ``(n, G)`` under a condition, covariates as is typical."""
        condition = torch.full((len(z),), code, device=z.device)
        return self._at_library_one(z, self.module.synthetic_rows(condition))

    def _averaged_corrections(self, source: int, target: Target) -> Corrections:
        """Those of a target between two conditions; variances are an upper bound."""
        parts = (self._corrections(source, code) for code in target.codes)
        return Corrections(*map(target.average, zip(*parts, strict=True)))

    def _added(
        self, rows: Rows, weights: Tensor, corrections: Callable[[int], Corrections]
    ) -> tuple[Tensor, Tensor]:
        """What correction adds to the decoder's means here and there, each ``(B, G)``.

        ``corrections`` are those of the code of a condition.
        """
        here, there = (torch.zeros_like(rows.dense_x) for _ in range(2))
        for code in rows.condition.unique().tolist():
            found, of = corrections(code), rows.condition == code
            own = weights[of] @ found.here
            here[of], there[of] = own, own + weights[of] @ found.change
        if not self.module.likelihood.is_count:
            return here, there
        return here * rows.library, there * rows.library

    def _without_chance(
        self,
        means: Tensor,
        own: Tensor,
        groups: Tensor,
        expected: Callable[[int], Tensor],
    ) -> Tensor:
        """Means of converted cells, less what chance makes of their groups' averages, ``(n, G)``.

        The cells of a group are some of a component's many. The converted ones' average is that
        which is expected of the component, and differs from it as far as their own does from the
        training cells' by more than that of so many cells would (James and Stein 1961).

        Parameters
        ----------
        means
            Of the converted cells, ``(n, G)``.
        own
            The cells' own values, summed by group, ``(C * K, G)``.
        groups
            ``condition * K + component`` of each cell, ``(n,)``.
        expected
            From the code of a condition to the change of each component's mean, ``(K, G)``.
        """
        fit = self._training_fit()
        training, variance = fit.mean.cpu(), fit.variance.cpu()
        known, means = self._training_means(), means.clone()
        for group in groups.unique().tolist():
            code, component = divmod(group, self.n_components)
            change = expected(code)[component].cpu()
            if not known.enough[code, component] or change.isnan().any():
                continue
            here, rows = training[code, component], groups == group
            n, n_training = rows.sum(), known.cells[code, component].cpu()
            apart = (own[group] / n - here).square().sum().clamp_min(_TINY)
            chance = variance[code, component].sum() * (1 / n + 1 / n_training)
            by_chance = (chance / apart).clamp(max=1.0)
            means[rows] += by_chance * (here + change - means[rows].mean(0))
        return means

    def _training_means(self) -> ConditionMeans:
        """Mean z of the training cells, by their labels if the model was trained with labels.

        Combinations of several columns that were never seen have one where effects add up.
        """
        means = self._seen_means()
        if self._completed_means is None:
            self._completed_means = completed_means(means, self._condition_sizes)
        return ConditionMeans(*(part.to(self.module.device) for part in self._completed_means))

    def _seen_means(self) -> ConditionMeans:
        """Of conditions and combinations that have training cells."""
        self._check_if_trained()
        if self._condition_means is None:
            if not self._has_training_cells:
                raise ValueError(
                    "route='shift' needs the means of the training cells, and this model was saved "
                    "by a version that did not keep them. Train it anew, or use route='w' or 'z'."
                )
            self._condition_means = self._means_of_training_cells()
        return self._condition_means

    def _check_sides(
        self, adata: AnnData, chosen: np.ndarray, parts: Sequence[tuple[Target, np.ndarray]]
    ) -> None:
        """Raise if no component says how z moves; warn of labels with few cells on a side.

        A shift of zero would pass for no effect. ``parts`` are targets, and the places of their
        cells among those that were ``chosen``.
        """
        if not len(chosen):
            return
        manager = self.get_anndata_manager(adata, required=True)
        own = np.asarray(manager.get_from_registry(CONDITION_KEY)).ravel()[chosen]
        pairs = {
            (int(source), code)
            for target, places in parts
            for source in np.unique(own[places])
            for code in target.codes
            if source != code
        }
        for source, code in sorted(pairs):
            self._check_told(code)
            enough = self._training_means().enough
            if not (enough[source] & enough[code]).any():
                here, there = (arguments.shown(name_of(self.conditions[c])) for c in (source, code))
                raise ValueError(
                    f"route='shift' needs {FEWEST_CELLS} training cells of a component both under "
                    f"{here} and under {there}, or more, and there is none that has them. Train "
                    "with more, or use route='w' or 'z'."
                )
        for code in sorted({code for pair in pairs for code in pair}):
            self._warn_of_few(code)

    def _warn_of_few(self, code: int) -> None:
        """Warn of labels with some training cells under a condition, but too few for a mean."""
        if not self.trained_with_labels_:
            return
        cells = self.module.class_components.cpu() @ self._training_means().cells[code].cpu()
        few = [
            f"{name!r} ({n:.0f})"
            for name, n in zip(self.classes, cells.tolist(), strict=True)
            if 0.5 < n < FEWEST_CELLS
        ]
        if few:
            warnings.warn(
                f"Fewer than {FEWEST_CELLS} training cells under "
                f"{arguments.shown(self.conditions[code])}: {', '.join(few)}. They move as the "
                "others do on average.",
                UserWarning,
                stacklevel=5,
            )

    @torch.inference_mode()
    def _means_of_training_cells(self) -> ConditionMeans:
        parts = []
        for rows in self._batches(self.adata, self.train_indices, None):
            weights = self._route_weights(rows, self.trained_with_labels_, use_mean=True)
            z, n = self._z(rows, use_mean=True), len(self.conditions)
            parts.append(ConditionMeans.of(z, weights, rows.condition, n))
        return ConditionMeans(*map(sum, zip(*parts, strict=True)))

    @property
    def _keeps_fit(self) -> bool:
        """Whether the model has, or can still learn, how its decoder fits the training cells."""
        return self._decoder_fit is not None or self._has_training_cells

    def _training_fit(self) -> DecoderFit:
        """The decoder's means against those of the training cells, seen combinations or not."""
        return DecoderFit(*(part.to(self.module.device) for part in self._completed().fit))

    @torch.inference_mode()
    def _completed(self) -> CompletedFit:
        """Means of combinations that were never seen, made once."""
        if self._completed_fit is None:
            device, is_count = self.module.device, self.module.likelihood.is_count
            fit = DecoderFit(*(part.to(device) for part in self._seen_fit()))
            means = ConditionMeans(*(part.to(device) for part in self._seen_means()))
            self._completed_fit = completed_fit(
                fit, means, self._typical_mean, self._condition_sizes, is_count
            )
        return self._completed_fit

    def _seen_fit(self) -> DecoderFit:
        """Of conditions and combinations that have training cells."""
        if self._decoder_fit is None:
            if not self._has_training_cells:
                raise ValueError(
                    "correct_means=True needs means of the training cells' expression, and this "
                    "model was saved by a version that did not keep them. Train it anew, or use "
                    "correct_means=False."
                )
            self._decoder_fit = self._fit_to_training_cells()
        return self._decoder_fit

    @torch.inference_mode()
    def _fit_to_training_cells(self) -> DecoderFit:
        module, means = self.module, self._training_means()
        sizes = len(self.conditions), self.n_components, module.n_input
        sums = FitSums(*sizes, module.device)
        for rows in self._batches(self.adata, self.train_indices, None):
            weights = self._route_weights(rows, self.trained_with_labels_, use_mean=True)
            z, x = self._z(rows, use_mean=True), rows.dense_x
            if module.likelihood.is_count:
                x = x / rows.library.clamp_min(1e-12)
            densities = torch.full((len(z), sizes[0]), torch.nan, device=z.device)
            own = weights.argmax(-1)
            for target in torch.nonzero(means.enough.any(1)).flatten().tolist():
                moved = z + (weights.unsqueeze(-1) * means.shifts(target)[rows.condition]).sum(1)
                seen = means.enough[rows.condition, own] & means.enough[target, own]
                found = means.log_density(moved, target)
                densities[:, target] = torch.where(seen, found, torch.nan)
            decoded = self._at_library_one(z, rows)
            sums.add(x, decoded, z, weights, rows.condition, densities)
        return sums.fit()

    def _forget_training_cells(self) -> None:
        super()._forget_training_cells()
        self._condition_means = self._decoder_fit = None
        self._completed_means = self._completed_fit = None

    def _saved_state(self) -> dict:
        kept = self._condition_means
        if kept is None and self._has_training_cells and self.is_trained_:
            kept = self._means_of_training_cells()
        values = kept and [part.cpu().numpy() for part in kept if part is not None]
        return super()._saved_state() | {"condition_means": values}

    def _restore_state(self, state: dict) -> None:
        super()._restore_state(state)
        # directories of version 0.1.0 have none
        kept = state.get("condition_means")
        self._condition_means = kept and ConditionMeans(*map(torch.as_tensor, kept))

    def _saved_tensors(self) -> dict[str, Tensor]:
        fit = self._decoder_fit
        if fit is None and self._has_training_cells and self.is_trained_:
            fit = self._seen_fit()
        return super()._saved_tensors() | (fit._asdict() if fit is not None else {})

    def _restore_tensors(self, tensors: dict[str, Tensor]) -> None:
        super()._restore_tensors(tensors)
        if all(name in tensors for name in DecoderFit._fields):
            self._decoder_fit = DecoderFit(*(tensors[name] for name in DecoderFit._fields))
