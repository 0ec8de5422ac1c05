"""The base of models of light curves: registering them, codes, classes and scores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import BaseAnnDataField
from torch import Tensor

from mixvi.core.arguments import told_by_class
from mixvi.core.data.annotations import Annotations, check_key_added
from mixvi.core.data.fields import name_of
from mixvi.core.data.setup import LOADING, register
from mixvi.core.model.anndata_model import AnnDataModel
from mixvi.lightcurves.curves import Curves
from mixvi.lightcurves.fitting import CurveFittingMixin
from mixvi.lightcurves.module import CurveModule
from mixvi.lightcurves.observations import as_stored, read_observations
from mixvi.lightcurves.setup import (
    CENTRE_KEY,
    FEATURES_KEY,
    PHASE_KEY,
    SPREAD_KEY,
    check_again,
    curve_fields,
    resolve_curves,
)


def component_names(classes: Sequence, n: int) -> list[str]:
    """What n components are called: the classes, then further ones by number.

    Beside classes that are numbers further ones are ``component_<number>``, not to be taken for a
    class.
    """
    names = [name_of(label) for label in classes]
    prefix = "component_" if any(name.isdigit() for name in names) else ""
    return names + [f"{prefix}{k}" for k in range(len(names), n)]


class LightCurveModel(CurveFittingMixin, AnnDataModel):
    """Base of the models of light curves. Subclasses build ``self.module``."""

    module: CurveModule

    @classmethod
    @told_by_class
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        time_key: str = "time",
        magnitude_key: str = "magnitude",
        error_key: str = "error",
        valid_key: str | None = None,
        labels_key: str | None = None,
        unlabeled_category: Hashable = "Unknown",
        fold: bool = True,
        period_key: str = "period",
        epoch_key: str | None = None,
        features: Sequence[str] | None = None,
        max_points: int = 200,
        source_registry: dict | None = None,
        extend_categories: bool = False,
    ) -> None:
        """Register the light curves of an AnnData, one object a row.

        Parameters
        ----------
        adata
            AnnData as :func:`mixvi.lightcurves.from_tables` makes it. Only ``_scvi_*`` keys are
            added to it.
        time_key, magnitude_key, error_key
            Keys of ``obsm`` with arrays ``(n, L)``, or ``(n, L, bands)``: times, magnitudes and
            their standard errors.
        valid_key
            Key of ``obsm``: where there is an observation. ``None``: ``"valid"`` if it is there,
            else where magnitude and time are finite.
        labels_key
            Column of ``obs`` with classes; those of some objects may be missing.
        unlabeled_category
            Its value for objects without a class; missing values mean the same.
        fold
            Fold times by the period; else each curve's times are taken from its first to its last.
        period_key
            Column of ``obs`` with periods, in the unit of time.
        epoch_key
            Column of ``obs`` with a time of phase zero, as :func:`mixvi.lightcurves.find_epochs`
            makes it. ``None``: zero.
        features
            Names of features f beside the curve's shape: of :data:`mixvi.lightcurves.FEATURES`, or
            of columns of ``obs``. ``None``: mean, log spread and, of folded curves, log period. An
            empty list: none.
        max_points
            Most observations a band that networks see at once: of longer curves others are drawn
            in each minibatch of training, and such as lie evenly in phase are read later.
        source_registry, extend_categories
            The registry of a trained model, given when a model is loaded.

        Raises
        ------
        KeyError
            If a key, a feature or the period is missing.
        TypeError
            If arrays or features are not numbers, or masks not boolean.
        ValueError
            If shapes do not fit each other; if curves have magnitudes that are NaN, errors that are
            not positive, fewer than five points, an unusable period or times in too few digits for
            it, which are counted, the first by name.

        Warns
        -----
        UserWarning
            If curves lack a band.
        """
        given = {name: value for name, value in locals().items() if name not in LOADING}
        method_args = cls._get_setup_method_args(**given)
        args, known = resolve_curves(adata, method_args["setup_args"], source_registry)
        method_args["setup_args"] = args
        fields = curve_fields(args, known)
        cls.register_manager(register(adata, fields, method_args, source_registry))

    def _fields(self, args: dict) -> list[BaseAnnDataField]:
        return curve_fields(args, self._state(REGISTRY_KEYS.X_KEY))

    def _matrix(self, adata: AnnData) -> Any:
        return adata.obsm[self._setup_args["magnitude_key"]]

    def _check_registered(self, adata: AnnData, is_known: bool) -> None:
        if is_known:
            # phases and features are made anew of what may have changed
            check_again(adata, self._setup_args)
        else:
            resolve_curves(adata, self._setup_args, self.registry)

    @property
    def n_bands(self) -> int:
        """Bands of the curves."""
        return int(self._state(REGISTRY_KEYS.X_KEY)["n_bands"])

    @property
    def features(self) -> list[str]:
        """Names of the features f, one a column."""
        return list(self._state(REGISTRY_KEYS.X_KEY)["features"])

    @property
    def classes(self) -> list:
        """The labels, in the order of their codes; empty without labels."""
        if self._setup_args["labels_key"] is None:
            return []
        return self._categories(REGISTRY_KEYS.LABELS_KEY)[:-1]

    @property
    def _shape(self) -> dict[str, int]:
        """Sizes that every module is built by."""
        return {
            "n_bands": self.n_bands,
            "n_features": len(self.features),
            "n_classes": len(self.classes),
            "max_points": int(self._setup_args["max_points"]),
        }

    def _standardise_by(self, adata: AnnData | None) -> None:
        """Take centres and spreads of the registered curves; a loaded module has them already."""
        if adata is None:
            return
        for key, name in (
            (CENTRE_KEY, "centre"),
            (SPREAD_KEY, "spread"),
            (FEATURES_KEY, "feature"),
        ):
            values = np.asarray(self.adata_manager.get_from_registry(key), np.float64)
            known = np.isfinite(values)
            n = np.maximum(known.sum(0), 1)
            mean = np.where(known, values, 0.0).sum(0) / n
            getattr(self.module, f"{name}_mean").copy_(torch.as_tensor(mean))
            if name == "feature":
                variance = np.where(known, (values - mean) ** 2, 0.0).sum(0) / n
                # of a feature that is constant but for rounding nothing is to be told
                sd, least = np.sqrt(variance), np.finfo(np.float32).eps * np.abs(mean)
                sd = np.where(sd > least, sd, 1.0)
                self.module.feature_sd.copy_(torch.as_tensor(sd))

    @torch.inference_mode()
    def _of_each(
        self,
        function: Callable[[Curves], Tensor],
        adata: AnnData | None,
        indices: Sequence[int] | None,
        batch_size: int | None,
    ) -> tuple[np.ndarray, pd.Index]:
        """What a function says of each curve, as networks see it, and the curves' names."""
        adata = self._validate_anndata(adata)
        parts = [
            function(self.module.seen(curves)).cpu()
            for curves in self._batches(adata, indices, batch_size)
        ]
        names = adata.obs_names[self._check_indices(adata, indices)]
        return torch.cat(parts).numpy(), names

    def get_phases(
        self, adata: AnnData | None = None, indices: Sequence[int] | None = None
    ) -> np.ndarray:
        """Phases of the registered times, in their shape; NaN where there is no observation."""
        adata = self._validate_anndata(adata)
        chosen = self._check_indices(adata, indices)
        phase = np.where(
            read_observations(adata, self._setup_args).valid[chosen],
            self.get_anndata_manager(adata, required=True).get_from_registry(PHASE_KEY)[chosen],
            np.nan,
        )
        return as_stored(phase, self.n_bands)

    @abstractmethod
    def _class_probabilities(self, curves: Curves) -> Tensor:
        """Probabilities of :attr:`categories`, ``(B, K)``."""

    @property
    def categories(self) -> list:
        """What :meth:`predict` tells apart: the labels as they are, or names of components."""
        return self.classes

    def predict(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        soft: bool = False,
        batch_size: int | None = None,
    ) -> pd.Series | pd.DataFrame:
        """The class of each curve, or the probabilities of all: q(y | z, f) at the mean of z.

        Parameters
        ----------
        soft
            Return probabilities.

        Returns
        -------
        Series ``(n_obs,)`` or DataFrame ``(n_obs, K)``, by the objects' names.

        Raises
        ------
        ValueError
            If the model knows no classes.
        """
        if not self.categories:
            raise ValueError(
                "The model knows no classes: it was set up without labels. Pass labels_key to "
                "setup_anndata."
            )
        p, names = self._of_each(self._class_probabilities, adata, indices, batch_size)
        if soft:
            return pd.DataFrame(p, index=names, columns=self.categories)
        best = pd.Categorical.from_codes(p.argmax(1), self.categories)
        return pd.Series(best, index=names, name="label")

    def annotate(
        self,
        adata: AnnData | None = None,
        *,
        key_added: str | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Write codes, classes and scores into the AnnData.

        Keys, with ``key_added`` or the name of the model in small letters for ``<key>``:
        ``obsm["X_<key>"]``, the mean of z ``(n_obs, n_latent)``; ``obs["<key>_anomaly"]``, the
        anomaly score of the default kind; where there are classes or clusters
        ``obs["<key>_label"]``, the most probable, ``obs["<key>_confidence"]``, its probability, and
        ``obsm["<key>_probabilities"]`` ``(n_obs, K)``; ``uns["<key>"]`` with the settings and the
        names of the classes.

        Parameters
        ----------
        key_added
            What keys are named for.

        Warns
        -----
        UserWarning
            If keys are replaced that another class of model or the user wrote.
        """
        check_key_added(key_added)
        adata = self._validate_anndata(adata)
        key = key_added or type(self).__name__.lower()
        found = Annotations(key, self._description())
        found.obsm[f"X_{key}"] = self.get_latent_representation(adata, batch_size=batch_size)
        score = self.get_anomaly_score(adata, batch_size=batch_size)
        found.obs[f"{key}_anomaly"] = score.to_numpy()
        if self.categories:
            p = self.predict(adata, soft=True, batch_size=batch_size).to_numpy()
            found.notes["classes"] = [str(name) for name in self.categories]
            found.obs[f"{key}_label"] = pd.Categorical.from_codes(p.argmax(1), self.categories)
            found.obs[f"{key}_confidence"] = p.max(1)
            found.obsm[f"{key}_probabilities"] = p
        found.write(adata)
