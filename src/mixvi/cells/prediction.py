"""Components and labels of cells, with probabilities that were measured on held-out labels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from mixvi.cells.assignment import ComponentAssignment, assign
from mixvi.cells.calibration import CalibrationMixin
from mixvi.core import arguments
from mixvi.core.data import checks
from mixvi.core.data.annotations import Annotations
from mixvi.core.data.combinations import columns_of, names_of_cells
from mixvi.core.data.fields import labelled_cells, plain_labels
from mixvi.core.maths.mixture import reparameterise
from mixvi.core.maths.networks import active_dropout
from mixvi.core.model.module import Rows

UNKNOWN = "Unknown"
"""What a cell is called that is too far from every label."""
# share of a batch's or condition's cells whose rejection is odd, and cells that tell one
_MOST = 0.5
_FEWEST_OF_GROUP = 20
# warnings name the line outside that called
_PACKAGE = str(Path(__file__).parents[1])


class PredictionMixin(CalibrationMixin):
    """``predict`` and its probabilities."""

    assignment_: dict | None = None

    @property
    def component_labels(self) -> dict[int, Any] | None:
        """Label of each component as last assigned, or None."""
        return None if self.assignment_ is None else dict(self.assignment_["mapping"])

    def _component_probs(self, rows: Rows, use_mean: bool) -> Tensor:
        """q(y | x), ``(B, K)``, at the means of z and w or at samples of them."""
        return self._log_component_probs(rows, use_mean).exp()

    def _log_component_probs(self, rows: Rows, use_mean: bool) -> Tensor:
        """Log q(y | x), ``(B, K)``: finite where the probability itself underflows to zero."""
        module = self.module
        posterior = module.encode(rows)
        z, w = posterior["mu_z"], posterior["mu_w"]
        if not use_mean:
            z = reparameterise(z, posterior["lv_z"])
            w = reparameterise(w, posterior["lv_w"])
        means = log_vars = None
        if module.y_posterior == "bayes":
            means, log_vars = module.component_parameters(w, rows.condition)
        return module.log_component_probs(z, rows, means, log_vars)

    def _log_probs(
        self,
        adata: AnnData,
        rows: np.ndarray,
        batch_size: int | None = None,
        *,
        use_mean: bool = True,
        n_samples: int | None = None,
    ) -> Tensor:
        """Log probabilities of the components before calibration, ``(n, K)``."""
        parts = []
        for minibatch in self._batches(adata, rows, batch_size) if len(rows) else ():
            if n_samples is None:
                part = self._log_component_probs(minibatch, use_mean)
            else:
                with active_dropout(self.module):
                    draws = [
                        self._log_component_probs(minibatch, use_mean=False)
                        for _ in range(n_samples)
                    ]
                part = torch.stack(draws).logsumexp(0) - math.log(n_samples)
            parts.append(part.cpu())
        return torch.cat(parts) if parts else torch.zeros(0, self.n_components)

    @torch.inference_mode()
    def predict(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        soft: bool = False,
        level: str | None = None,
        reject: float | None = None,
        use_mean: bool = True,
        n_samples: int | None = None,
        batch_size: int | None = None,
    ) -> pd.Series | pd.DataFrame:
        """Component or label of each cell, or the probabilities of each.

        Probabilities are calibrated if training held labels out for that (see ``calibrate`` of
        :meth:`train`), or :meth:`calibrate` was called.

        Parameters
        ----------
        soft
            Probabilities instead of the most probable one.
        level
            ``"component"``, the default, or ``"label"`` by the labels of the components: those of
            training, or those of :meth:`assign_components`.
        reject
            Share of cells of known types that may be called ``"Unknown"``: cells whose
            :meth:`get_novelty_score` is beyond that quantile of the held-out labelled cells are
            then (``level="label"``). The share holds for cells like those; of another donor or
            study more are rejected, and of a condition without labels most, which is warned of.
        use_mean
            z at its mean, or at a sample as in the thesis's evaluations.
        n_samples
            Average probabilities over as many draws of z and of dropout masks (Gal and Ghahramani
            2016) instead: slower, and surer to be right where labels are few.

        Returns
        -------
        Series ``(n_obs,)`` or DataFrame ``(n_obs, K)`` or ``(n_obs, n_labels)``, by cell name.

        Raises
        ------
        ValueError
            For labels before components have any, for ``reject`` outside (0, 1) or with
            components or probabilities, and where too few labels were held out for it.
        """
        if level is None:
            level = "component" if reject is None else "label"
        arguments.check_choice("level", level, ("component", "label"))
        if reject is not None:
            self._check_reject(reject, level, soft)
        if level == "label":
            self._check_labels_known()
        if n_samples is not None:
            arguments.check_positive("n_samples", n_samples)
        adata = self._validate_anndata(adata)
        chosen = self._check_indices(adata, indices)
        log_probs = self._log_probs(
            adata, chosen, batch_size, use_mean=use_mean, n_samples=n_samples
        )
        log_probs = self._calibrated(log_probs, of_draws=n_samples is not None)
        probs = pd.DataFrame(log_probs.exp().numpy(), index=adata.obs_names[chosen])
        if level == "label":
            probs = self._label_probs(probs)
        if soft:
            return probs
        best = probs.columns.to_numpy()[probs.to_numpy().argmax(axis=1)]
        if reject is not None:
            limit = self._conformal_limit("novelty", reject, f"reject={reject}")
            novel = self.get_novelty_score(adata, chosen, batch_size=batch_size) > limit
            self._warn_of_rejected_groups(adata.obs.iloc[chosen], novel.to_numpy(), reject)
            best = np.where(novel, UNKNOWN, best.astype(object))
        return pd.Series(best, index=probs.index, name=level)

    def _annotate_rejected(
        self,
        found: Annotations,
        adata: AnnData,
        key: str,
        reject: float | None,
        batch_size: int | None,
    ) -> None:
        """Put into what ``annotate`` writes which cells are of no known type, on demand."""
        if reject is None:
            return
        labels = self.predict(adata, reject=reject, batch_size=batch_size)
        found.obs[f"{key}_prediction"] = pd.Categorical(labels)
        found.obs[f"{key}_novelty"] = self.get_novelty_score(adata, batch_size=batch_size)
        found.notes["reject"] = float(reject)

    def _warn_of_rejected_groups(self, obs: pd.DataFrame, novel: np.ndarray, reject: float) -> None:
        """Warn of a condition or batch most of whose cells are rejected.

        A batch is named only for cells of other conditions than those that were named.

        Parameters
        ----------
        obs
            Of the cells, ``(n, ...)``.
        novel
            Whether they are rejected, ``(n,)``.
        reject
            As given.
        """
        keys = (self._setup_args[key] for key in ("condition_key", "batch_key"))
        unexplained = np.ones(len(novel), bool)
        for key in filter(None, keys):
            names = names_of_cells(obs, key)
            groups = pd.Series(novel[unexplained]).groupby(names[unexplained])
            found = groups.agg(["sum", "size", "mean"])
            odd = found[(found["mean"] > _MOST) & (found["size"] >= _FEWEST_OF_GROUP)]
            unexplained &= ~np.isin(names, odd.index)
            if len(odd):
                name, row = odd["mean"].idxmax(), odd.loc[odd["mean"].idxmax()]
                of = f"{' and '.join(columns_of(key))} {name!r}"
                warnings.warn(
                    f"reject={reject} calls {int(row['sum'])} of {int(row['size'])} cells of {of} "
                    f"{UNKNOWN!r}. Unless their types are new, it is that what a condition or "
                    "batch changes in all of its cells counts as novelty where few of them had a "
                    "label in training. Label some of them and train again, or compare "
                    "get_novelty_score() within it.",
                    UserWarning,
                    skip_file_prefixes=(_PACKAGE,),
                )

    def _check_reject(self, reject: float, level: str, soft: bool) -> None:
        arguments.check_share("reject", reject)
        if level != "label" or soft:
            raise ValueError(
                f"reject={reject} calls cells {UNKNOWN!r} instead of by a label. Pass "
                "level='label' and soft=False, or take get_novelty_score() beside the "
                "probabilities."
            )

    def _check_labels_known(self) -> None:
        if self.assignment_ is None:
            raise ValueError(
                "The components have no labels yet: the last training looked at none, and may have "
                "moved components that had some. Call assign_components(labels_key=...) first, or "
                "predict(level='component')."
            )

    def _label_probs(self, probs: pd.DataFrame) -> pd.DataFrame:
        # an array, because pandas reads a list of names as names of cells where there are such
        labels = np.array([self.assignment_["mapping"][j] for j in range(self.n_components)])
        return probs.T.groupby(labels, sort=True).sum().T

    def _known_labels(
        self, adata: AnnData, labels_key: str | None, indices: Sequence[int] | None
    ) -> tuple[np.ndarray, pd.Series]:
        """The labelled ones among some cells, by number, and their labels."""
        key = labels_key or self._setup_args["labels_key"]
        if key is None:
            raise ValueError("Name a column of adata.obs with labels: labels_key=....")
        checks.check_labels(adata, key, self._setup_args["unlabeled_category"])
        rows = self._check_indices(adata, indices)
        labels = adata.obs[key].iloc[rows]
        known = labelled_cells(labels, self._setup_args["unlabeled_category"])
        if not known.any():
            raise ValueError(f"No cell of adata.obs[{key!r}] that indices names has a label.")
        return rows[known], plain_labels(labels[known])

    @torch.inference_mode()
    def assign_components(
        self,
        labels_key: str | None = None,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        method: str = "overlap",
        batch_size: int | None = None,
    ) -> ComponentAssignment:
        """Give each component the label it overlaps most with, and store that map.

        This looks at labels: on cells with which you later score, it is as optimistic as the
        thesis's accuracy. Fit it on training cells to be honest on others. What probabilities were
        calibrated by is forgotten: it belongs to the labels that components had.

        Parameters
        ----------
        labels_key
            Column of ``obs``; default the registered one. Cells without a label (the unlabelled
            category, or NaN) are left out.
        method
            ``"overlap"``: the most frequent label; ``"hungarian"``: one label a component at most,
            further components by overlap.

        Returns
        -------
        :class:`ComponentAssignment`. Components without cells get the label that their
        probabilities overlap most with.

        Raises
        ------
        KeyError
            If the column is missing.
        ValueError
            If no labels are known.
        """
        arguments.check_choice("method", method, ("overlap", "hungarian"))
        adata = self._validate_anndata(adata)
        rows, labels = self._known_labels(adata, labels_key, indices)
        log_probs = self._log_probs(adata, rows, batch_size)
        assignment = assign(log_probs.exp().numpy(), labels, method)
        self.assignment_ = {"mapping": assignment.mapping, "method": method}
        self.calibration_ = None
        return assignment

    def _saved_state(self) -> dict:
        return super()._saved_state() | {"assignment": self.assignment_}

    def _restore_state(self, state: dict) -> None:
        super()._restore_state(state)
        self.assignment_ = state["assignment"]
