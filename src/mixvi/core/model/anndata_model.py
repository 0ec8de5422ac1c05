"""What every model shares, whatever a row of its AnnData is: a cell, an image, a series."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from pandas.api.types import is_bool_dtype
from scvi import settings
from scvi.data._constants import (
    _MODEL_NAME_KEY,
    _SCVI_UUID_KEY,
    _SETUP_ARGS_KEY,
    _SETUP_METHOD_NAME,
)
from scvi.data._utils import _assign_adata_uuid, _check_if_view
from scvi.data.fields import BaseAnnDataField
from scvi.model.base import BaseModelClass
from scvi.module.base import BaseModuleClass

from mixvi.core.arguments import check_positive, near_matches
from mixvi.core.data import checks
from mixvi.core.data.alignment import in_order_of
from mixvi.core.data.backed import is_backed
from mixvi.core.data.loading import inference_loader
from mixvi.core.data.setup import register
from mixvi.core.data.support import mark_of
from mixvi.core.model.card import CardMixin
from mixvi.core.model.docstrings import explain_arguments
from mixvi.core.model.query import QueryMixin
from mixvi.core.model.saved_model import SavedModelMixin
from mixvi.core.training.threads import few_threads

# what arguments are called in scvi-tools, or in other models
_OTHER_WORDS = {
    "n_latent": ("n_latent_z",),
    "n_latent_z": ("n_latent",),
    "gene_likelihood": ("likelihood",),
}
_METHOD_ARGS = (_MODEL_NAME_KEY, _SETUP_METHOD_NAME, _SETUP_ARGS_KEY)


class AnnDataModel(CardMixin, QueryMixin, SavedModelMixin, BaseModelClass):
    """Registered data, their rows on the model's device, and safe files."""

    module: BaseModuleClass
    _mark_of_checked: tuple | None = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        explain_arguments(cls)

    def __new__(cls, *args: Any, **options: Any) -> AnnDataModel:
        """Refuse names that the model's arguments have not, scvi-tools' among them."""
        known = list(inspect.signature(cls.__init__).parameters)[1:]
        for name in options:
            if name not in known:
                ours = [word for word in _OTHER_WORDS.get(name, ()) if word in known]
                near = f"It is called {ours[0]!r} here." if ours else near_matches(name, known)
                raise TypeError(f"{cls.__name__} has no argument {name!r}. {near}")
        return super().__new__(cls)

    def __init__(self, adata: AnnData | None = None, registry: dict | None = None):
        if adata is None:
            _check_registry(registry, type(self).__name__)
        super().__init__(adata, registry)

    def _finish(self, module: BaseModuleClass, init_locals: dict, summary: str) -> None:
        """Take the module, remember how the model was built, and check the data's support."""
        self.module = module
        self.init_params_ = self._get_init_params(init_locals)["non_kwargs"]
        self._model_summary_string = summary
        if self.adata is not None:
            self._check_values(self.adata)

    def _check_values(self, adata: AnnData) -> None:
        """Check the registered data, but for values that were found good before."""
        mark = mark_of(self._matrix(adata))
        if mark is None or mark != self._mark_of_checked:
            self._check_data(adata)
            self._mark_of_checked = mark

    def _check_data(self, adata: AnnData) -> None:
        """Raise if the registered data are not what the model can take."""

    def _check_registered(self, adata: AnnData, is_known: bool) -> None:
        """Raise if an AnnData has not the fields that the model was registered with.

        One that ``is_known``, because the model was built on it, need not be read from disk again.
        """

    def _matrix(self, adata: AnnData) -> Any:
        """What the model reads of an AnnData."""
        return adata.X

    @staticmethod
    @abstractmethod
    def _fields(args: dict) -> list[BaseAnnDataField]:
        """The fields to register, by the arguments of ``setup_anndata``."""

    def _categories(self, registry_key: str) -> list:
        """Names of a field's categories, in the order of their codes."""
        return np.asarray(self._state(registry_key)["categorical_mapping"]).tolist()

    def _state(self, registry_key: str) -> dict:
        field = self.registry["field_registries"].get(registry_key, {})
        return field.get("state_registry", {})

    @property
    def _setup_args(self) -> dict:
        return self.registry["setup_args"]

    def _validate_anndata(self, adata: AnnData | None = None, copy_if_view: bool = True) -> AnnData:
        """Check an AnnData against the model, and encode its fields as they are now."""
        adata = self.adata if adata is None else adata
        if adata is None:
            raise ValueError(
                "The model was loaded without data. Pass adata=..., with the fields that the model "
                "was trained on."
            )
        checks.check_anndata(adata, type(self).__name__)
        is_known = adata is self.adata
        self._check_registered(adata, is_known)
        if not (is_known and is_backed(self._matrix(adata))):
            self._check_values(adata)
        _check_if_view(adata, copy_if_view=copy_if_view)
        self._encode(adata)
        return adata

    def _encode(self, adata: AnnData) -> None:
        """Encode an AnnData's fields, by a registration of its own if it is new to the model."""
        ours = self._per_instance_manager_store.get(self.id, {})
        manager = ours.get(adata.uns.get(_SCVI_UUID_KEY))
        if manager is not None and manager.adata is adata:
            manager.encode()
            return
        if manager is not None:
            # a copy has the mark of what it was copied from
            _assign_adata_uuid(adata, overwrite=True)
        method_args = {key: self.registry[key] for key in _METHOD_ARGS if key in self.registry}
        fields = self._fields(self._setup_args)
        self._register_manager_for_instance(register(adata, fields, method_args, self.registry))

    def _check_indices(self, adata: AnnData, indices: Sequence[int] | None) -> np.ndarray:
        """Numbers of the rows that ``indices`` choose: by number, by mask or by name."""
        if indices is None:
            return np.arange(adata.n_obs)
        if isinstance(indices, pd.Series) and is_bool_dtype(indices):
            indices = in_order_of(adata.obs_names, indices, "indices").to_numpy(dtype=bool)
        indices = np.asarray(indices)
        if indices.dtype == bool:
            if len(indices) != adata.n_obs:
                raise ValueError(
                    f"indices is a mask of length {len(indices)}, but adata has {adata.n_obs} rows."
                )
            if not indices.any():
                raise ValueError(
                    "indices is a mask that is true for no row. Check the comparison it comes "
                    "from: a name may be misspelt."
                )
            return np.flatnonzero(indices)
        if indices.size == 0:
            return np.zeros(0, dtype=np.int64)
        if all(isinstance(name, str) for name in indices.ravel()):
            return _rows_named(adata.obs_names, indices)
        usable = indices.ndim == 1 and indices.dtype.kind in "iu"
        if not usable or indices.min() < 0 or indices.max() >= adata.n_obs:
            raise ValueError(
                f"indices must be row numbers from 0 to {adata.n_obs - 1}, a boolean mask or names "
                "of rows (obs_names)."
            )
        # torch takes uint8 for a mask
        return indices.astype(np.int64)

    def _check_if_trained(self, warn: bool = False, message: str | None = None) -> None:
        """Raise RuntimeError for a model that was not trained; scvi-tools only warns."""
        if not self.is_trained_:
            raise RuntimeError(
                message or f"This {type(self).__name__} is not trained yet. Call train() first."
            )

    def _batches(
        self, adata: AnnData, indices: Sequence[int] | None, batch_size: int | None
    ) -> Iterator[Any]:
        """Rows for inference by a trained model, see :meth:`_inputs`."""
        self._check_if_trained()
        yield from self._inputs(adata, indices, batch_size)

    def _inputs(
        self, adata: AnnData, indices: Sequence[int] | None, batch_size: int | None
    ) -> Iterator[Any]:
        """Rows on the model's device, in order, as the module reads them; it is set to eval."""
        indices = self._check_indices(adata, indices)
        if len(indices) == 0:
            raise ValueError("indices names no row. Leave it out for all, or name some.")
        if batch_size is None:
            batch_size = self._default_batch_size(adata)
        check_positive("batch_size", batch_size)
        manager = self.get_anndata_manager(adata, required=True)
        # verbs may read several AnnData, and models share some
        manager.validate()
        self.module.eval()
        device = self.module.device
        with few_threads():
            for tensors in inference_loader(manager, indices, batch_size, device):
                yield self.module.rows({key: values.to(device) for key, values in tensors.items()})

    def _default_batch_size(self, adata: AnnData) -> int:
        """Rows of an AnnData at a time unless the user says."""
        return settings.batch_size

    @staticmethod
    def _from_posterior(
        mean: torch.Tensor,
        variance: torch.Tensor,
        give_mean: bool,
        return_dist: bool,
        n_samples: int,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """What ``get_latent_representation`` returns of posteriors ``(n_obs, n_latent)``."""
        if return_dist:
            return mean.numpy(), variance.numpy()
        if give_mean:
            return mean.numpy()
        samples = mean + variance.sqrt() * torch.randn(n_samples, *mean.shape)
        return (samples[0] if n_samples == 1 else samples).numpy()

    def _description(self) -> dict[str, Any]:
        """What ``uns`` says of the model that annotated an AnnData."""
        return {
            "model": type(self).__name__,
            "mixvi_version": version("mixvi"),
            "settings": _without_none(self.init_params_),
        }


def _rows_named(names: pd.Index, chosen: np.ndarray) -> np.ndarray:
    """Row numbers of the rows called ``chosen``."""
    if not names.is_unique:
        raise ValueError(
            "indices are names, but adata.obs_names repeat. Pass row numbers, or call "
            "adata.obs_names_make_unique() first."
        )
    rows = names.get_indexer(chosen)
    if (rows < 0).any():
        missing = chosen[rows < 0]
        raise ValueError(
            f"indices has {len(missing)} names that are not in adata.obs_names, e.g. "
            f"{str(missing[0])!r}."
        )
    return rows


def _check_registry(registry: dict | None, class_name: str) -> None:
    """Raise ValueError unless a registry is one that the model's own set-up made."""
    found = "No data are given."
    if registry:
        model, method = registry.get(_MODEL_NAME_KEY), registry.get(_SETUP_METHOD_NAME)
        if (model, method) == (class_name, "setup_anndata"):
            return
        found = f"The registry is that of {model}.{method}."
    raise ValueError(
        f"{found} Register them: {class_name}.setup_anndata(adata, ...), then {class_name}(adata). "
        "Data on disk may stay there (mixvi.read_backed); minibatches made elsewhere train by "
        "train(datamodule=...) a model that was built on a sample with every gene and category."
    )


def _without_none(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that are set: h5ad files hold no None."""
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if value is not None
    }
