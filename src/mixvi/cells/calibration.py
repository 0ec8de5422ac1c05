"""What labels that were held out say: temperatures, cells of no known type, sets of labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from mixvi.cells.held_out import FEWEST
from mixvi.core import arguments
from mixvi.core.data.fields import name_of
from mixvi.core.maths.calibration import (
    conformal_quantile,
    fit_temperature,
    log_grouped,
    log_tempered,
)

_DRAWS = 20
# labelled cells may be few
_PRIOR_SD = 1.0


@dataclass(frozen=True)
class Calibration:
    """What labelled cells that did not teach their label say of the probabilities.

    Attributes
    ----------
    temperature
        What logits of the components are divided by: above 1, the network was too sure.
    temperature_of_draws
        The same for probabilities that are averaged over draws (``predict(n_samples=...)``).
    n_cells
        How many cells these are of.
    nonconformity
        One minus the probability of each cell's label, ``(n_cells,)``.
    novelty
        Their :meth:`PredictionMixin.get_novelty_score`, ``(n_cells,)``; empty without one.
    """

    temperature: float
    temperature_of_draws: float
    n_cells: int
    nonconformity: np.ndarray = field(repr=False, compare=False)
    novelty: np.ndarray = field(repr=False, compare=False)


class CalibrationMixin:
    """``calibrate``, and the verbs that ask what held-out labels were given."""

    calibration_: Calibration | None = None

    @property
    def calibration(self) -> Calibration | None:
        """What probabilities are calibrated by, or None; see :meth:`calibrate`."""
        return self.calibration_

    @torch.inference_mode()
    def calibrate(
        self,
        labels_key: str | None = None,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
    ) -> float:
        """Fit the temperature of the probabilities to labelled cells that did not teach theirs.

        :meth:`train` does so itself where it held labels out. From then on :meth:`predict` and
        :meth:`annotate` divide logits of the components by it, which leaves the most probable
        component of a cell as it is; it is saved with the model and fitted anew by each call. Above
        1 the model was too sure (Guo et al. 2017).

        Parameters
        ----------
        labels_key
            Column of ``obs``; default the registered one. Cells without a label, or with one that
            no component stands for, are left out.
        adata, indices
            Labelled cells; by default those that training held out.

        Returns
        -------
        The temperature, between 0.05 and 20.

        Raises
        ------
        KeyError
            If the column is missing.
        ValueError
            If training held none out and none are given, those held out are not among the cells of
            a loaded model, fewer than 10 have a label that the components know, or components have
            no labels.
        """
        self._check_if_trained()
        self._check_labels_known()
        if adata is None and indices is None:
            indices = self._calibration_names
            if not indices:
                raise ValueError(
                    "Training held no labels out to calibrate on. Pass adata or indices of "
                    "labelled cells that did not train with their label."
                )
        adata = self._validate_anndata(adata)
        rows, labels = self._known_labels(adata, labels_key, indices)
        known = labels.map(name_of).isin(self._names_of_labels()).to_numpy()
        if known.sum() < FEWEST:
            raise ValueError(
                f"{int(known.sum())} cells with a label that the components stand for are too few "
                f"to calibrate on: at least {FEWEST} are needed."
            )
        self.calibration_ = self._calibration(adata, rows[known], labels[known], batch_size)
        return self.calibration_.temperature

    def _names_of_labels(self) -> list[str]:
        """Names of the labels that components stand for, in the order of :meth:`predict`."""
        return [name_of(label) for label in np.unique(list(self.assignment_["mapping"].values()))]

    @torch.inference_mode()
    def _calibration(
        self, adata: AnnData, rows: np.ndarray, labels: Sequence, batch_size: int | None = None
    ) -> Calibration:
        """What cells with known labels say of the probabilities."""
        names = self._names_of_labels()
        targets = torch.tensor([names.index(name_of(label)) for label in labels])
        mapping = self.assignment_["mapping"]
        groups = torch.tensor([names.index(name_of(mapping[j])) for j in range(self.n_components)])
        # draws leave the random state that training goes on from as it was
        with torch.random.fork_rng():
            at_means, of_draws = (
                self._log_probs(adata, rows, batch_size, n_samples=n) for n in (None, _DRAWS)
            )
        temperature = fit_temperature(at_means, targets, groups, prior_sd=_PRIOR_SD)
        log_probs = log_grouped(log_tempered(at_means, temperature), groups, len(names))
        own = log_probs.gather(-1, targets.view(-1, 1)).exp().view(-1)
        novelty = np.zeros(0)
        if self.module.label_distance.is_fitted:
            novelty = self.get_novelty_score(adata, rows, batch_size=batch_size).to_numpy()
        return Calibration(
            temperature=temperature,
            temperature_of_draws=fit_temperature(of_draws, targets, groups, prior_sd=_PRIOR_SD),
            n_cells=len(rows),
            nonconformity=1.0 - own.numpy().astype(float),
            novelty=novelty,
        )

    def _calibrated(self, log_probs: Tensor, of_draws: bool = False) -> Tensor:
        """Log probabilities of the components as users see them."""
        found = self.calibration_
        if found is None:
            return log_probs
        temperature = found.temperature_of_draws if of_draws else found.temperature
        return log_tempered(log_probs, temperature)

    def _conformal_limit(self, of: str, alpha: float, argument: str) -> float:
        """Which score a share ``alpha`` of the held-out cells exceeds."""
        found = self.calibration_
        scores = np.zeros(0) if found is None else getattr(found, of)
        limit = conformal_quantile(scores, alpha)
        if np.isfinite(limit):
            return limit
        needed = math.ceil(round(1.0 / alpha, 9)) - 1
        raise ValueError(
            f"{argument} needs at least {needed} labelled cells that did not teach their "
            f"label, but there are {len(scores)}. Train with more labels "
            "(calibrate=True holds a tenth of them out), or call calibrate(adata=...) with others."
        )

    @torch.inference_mode()
    def predict_sets(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        coverage: float = 0.9,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Sets of labels that hold the true one with a stated probability (Sadinle et al. 2019).

        A label is in a cell's set if its probability is at least what all but ``1 - coverage`` of
        the held-out labelled cells give their own label; the most probable one always is. The
        coverage holds on average over cells that are exchangeable with those, of known types: for
        another donor or study it may be less.

        Parameters
        ----------
        coverage
            Probability in (0, 1).

        Returns
        -------
        DataFrame of booleans ``(n_obs, n_labels)``, by cell name and label.

        Raises
        ------
        ValueError
            If ``coverage`` lies outside (0, 1), components have no labels, or too few labels were
            held out for it.
        """
        arguments.check_share("coverage", coverage)
        self._check_labels_known()
        limit = self._conformal_limit("nonconformity", 1.0 - coverage, f"coverage={coverage}")
        probs = self.predict(adata, indices, soft=True, level="label", batch_size=batch_size)
        return (1.0 - probs <= limit) | probs.eq(probs.max(axis=1), axis=0)

    @torch.inference_mode()
    def get_novelty_score(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
    ) -> pd.Series:
        """How far each cell is from every label that was taught: high for types of no label.

        The logarithm of the distance to the nearest label's mean, 0 for the median training cell:
        Mahalanobis' among 16 principal components of the (log-normalised) expression, with the
        covariance within labels (Lee et al. 2018, who measure it in a network's layers), times the
        mean cubed deviation of the genes; half is the cell's own, half the mean of the 15 training
        cells nearest to it. Where labels are rarer among its 30 nearest training cells than among
        all, than is usual in its batch and condition, and than around the labelled cells of the
        nearest label, the logarithm of that ratio is added. It looks at expression because z
        forgets, in training with labels, what tells other types apart. Principal components and
        neighbours are those of all training cells: a type without a label is found better where
        its cells train along, unlabelled, than where only later cells have it.

        Returns
        -------
        Series ``(n_obs,)``, by cell name.

        Raises
        ------
        ValueError
            If the last training looked at no labels.
        """
        self._check_if_trained()
        distance = self.module.label_distance
        if not distance.is_fitted:
            raise ValueError(
                "There are no labels to be far from: the last training looked at none, or the "
                "model was saved by a version that had no such score. Train it with labels."
            )
        adata = self._validate_anndata(adata)
        chosen = self._check_indices(adata, indices)
        parts = [distance(rows).cpu() for rows in self._batches(adata, chosen, batch_size)]
        values = torch.cat(parts).numpy().astype(float)
        return pd.Series(values, index=adata.obs_names[chosen], name="novelty")

    def _saved_state(self) -> dict:
        found = self.calibration_
        return super()._saved_state() | {"calibration": None if found is None else asdict(found)}

    def _restore_state(self, state: dict) -> None:
        super()._restore_state(state)
        # directories of version 0.1.0 have none
        found = state.get("calibration")
        self.calibration_ = None if found is None else Calibration(**found)
