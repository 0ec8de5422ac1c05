"""Confidence in clusters that is right as often as it says, by the labels of a few images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from mixvi.core.data.checks import check_key
from mixvi.core.data.fields import found_categories
from mixvi.core.data.splitting import Split
from mixvi.core.maths.calibration import fit_confidence_temperature, log_tempered
from mixvi.core.training.fitting import Fit
from mixvi.core.training.resuming import TrainingRun

_FEWEST = 10
# labelled images may be few
_PRIOR_SD = 1.0


@dataclass(frozen=True)
class Calibration:
    """What labelled images say of the probabilities of clusters.

    Attributes
    ----------
    temperature
        What logits of the clusters are divided by: above 1, the model was too sure.
    accuracy
        Share of these images that have the label which most others of their cluster have.
    n_images
        How many images these are of.
    """

    temperature: float
    accuracy: float
    n_images: int


class CalibrationMixin:
    """The verb ``calibrate`` of models with clusters."""

    calibration_: Calibration | None = None

    @property
    def calibration(self) -> Calibration | None:
        """What probabilities are calibrated by, or None; see :meth:`calibrate`."""
        return self.calibration_

    @torch.inference_mode()
    def calibrate(
        self,
        labels_key: str,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
    ) -> float:
        """Fit a temperature by which confidence in clusters is the share of images that are right.

        A cluster stands for the label that most of its images have; an image is right if it has the
        label of most *other* labelled images of its cluster. The temperature is the one at which
        the largest probability tells best which images are right (Guo et al. 2017, on being right
        instead of on classes: a label may have no cluster of its own). The most probable cluster
        of an image stays. From then on all verbs give calibrated probabilities, and they are saved
        with the model; training on forgets them.

        Without labels, clusters of a second model will do that was trained from another seed
        (``second.annotate(key_added="second")``, then ``calibrate("second_cluster")``): what two
        models agree on is seldom wrong, but they may share mistakes, so that confidence stays a
        little high.

        Parameters
        ----------
        labels_key
            Column of ``obs``; images without a value are left out.
        adata, indices
            Labelled images; default all that the model was built on.

        Returns
        -------
        The temperature, between 0.05 and 1000.

        Raises
        ------
        KeyError
            If the column is missing.
        ValueError
            If there is one cluster, or fewer than 10 images have a label and another labelled image
            in their cluster.
        """
        self._check_if_trained()
        if len(self.clusters) < 2:
            raise ValueError("There is one cluster: every image is in it, whatever its label.")
        adata = self._validate_anndata(adata)
        check_key(adata, "obs", labels_key, "labels_key")
        rows = self._check_indices(adata, indices)
        labels = found_categories(adata.obs[labels_key].iloc[rows])[0]
        rows, labels = rows[labels >= 0], labels[labels >= 0]
        n_known, right = 0, np.zeros(0)
        if len(rows):
            log_probs = self._log_memberships(adata, rows, batch_size)
            right = share_right(log_probs.argmax(-1).numpy(), labels)
            known = np.isfinite(right)
            n_known, right = int(known.sum()), right[known]
        if n_known < _FEWEST:
            raise ValueError(
                f"{n_known} images have a label ({labels_key!r}) and another labelled image in "
                f"their cluster: too few to calibrate on, at least {_FEWEST} are needed."
            )
        temperature = fit_confidence_temperature(
            log_probs[torch.from_numpy(known)], torch.from_numpy(right), prior_sd=_PRIOR_SD
        )
        self.calibration_ = Calibration(temperature, float(right.mean()), n_known)
        return temperature

    def _log_memberships(
        self, adata: AnnData, rows: Sequence[int] | None, batch_size: int | None
    ) -> Tensor:
        """Log q(y | z) at the means of q(z | x), not calibrated, ``(n, K)``."""
        parts = []
        for x in self._batches(adata, rows, batch_size):
            parts.append(self.module.prior.log_membership(self.module.encode(x)[0]).cpu())
        return torch.cat(parts)

    def _calibrated(self, log_probs: Tensor) -> Tensor:
        """Log probabilities of clusters as users see them."""
        found = self.calibration_
        return log_probs if found is None else log_tempered(log_probs, found.temperature)

    def _fit(self, fit: Fit, run: TrainingRun | None) -> Split:
        # what was said of other weights holds no longer
        self.calibration_ = None
        return super()._fit(fit, run)

    def _saved_state(self) -> dict:
        found = self.calibration_
        return super()._saved_state() | {"calibration": None if found is None else asdict(found)}

    def _restore_state(self, state: dict) -> None:
        super()._restore_state(state)
        # directories of version 0.1.0 have none
        found = state.get("calibration")
        self.calibration_ = None if found is None else Calibration(**found)


def share_right(clusters: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether each row has the label of most others of its cluster, ``(n,)``.

    A share where several labels are as frequent; NaN where its cluster has no others. Rows do not
    count for themselves: with few labels they would be right too often.

    Parameters
    ----------
    clusters, labels
        Codes from 0, ``(n,)`` each.
    """
    counts = np.zeros((clusters.max() + 1, labels.max() + 1))
    np.add.at(counts, (clusters, labels), 1)
    # (n, L)
    others = counts[clusters]
    each = np.arange(len(labels))
    others[each, labels] -= 1
    most = others.max(axis=1)
    among = (others == most[:, None]).sum(axis=1)
    right = np.where(others[each, labels] == most, 1.0 / among, 0.0)
    return np.where(most > 0, right, np.nan)
