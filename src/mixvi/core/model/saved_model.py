"""The verbs that write a model to disk and read it back."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import anndata
import numpy as np
import torch
from anndata import AnnData
from scvi.data import AnnDataManager
from scvi.model._utils import parse_device_args
from torch import Tensor

from mixvi.core.arguments import near_matches, told_by_class
from mixvi.core.data.files import (
    JSON_NAME,
    WEIGHTS_NAME,
    cells_path,
    from_json,
    read_model,
    read_record,
    write_model,
)

_KEPT = "training_cells."


def apart(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of the module, and what was kept of the training cells, by name."""
    weights = {name: of for name, of in tensors.items() if not name.startswith(_KEPT)}
    kept = {name.removeprefix(_KEPT): tensors[name] for name in tensors.keys() - weights.keys()}
    return weights, kept


class SavedModelMixin:
    """``save`` and ``load`` of a mixvi model, and what can be read of a saved one."""

    def _saved_state(self) -> dict:
        """What beside weights and settings a saved model remembers; subclasses add to it."""
        return {
            "is_trained": self.is_trained_,
            "history": self.history_,
            "train_indices": self.train_indices_,
            "validation_indices": self.validation_indices_,
            "test_indices": self.test_indices_,
        }

    def _saved_tensors(self) -> dict[str, Tensor]:
        """What of the training cells is too large for JSON; subclasses add to it."""
        return {}

    def _restore_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what :meth:`_saved_tensors` gave."""

    def _restore_state(self, state: dict) -> None:
        self.is_trained_ = state["is_trained"]
        self.history_ = state["history"]
        self.train_indices_ = state["train_indices"]
        self.validation_indices_ = state["validation_indices"]
        self.test_indices_ = state.get("test_indices")

    def save(
        self,
        dir_path: str | Path,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        **anndata_write_kwargs,
    ) -> None:
        """Write the model into a directory that is safe to load: tensors and JSON, no code.

        Parameters
        ----------
        dir_path
            The directory.
        prefix
            Of the files' names: models of several prefixes lie in one directory.
        overwrite
            Whether an existing model there is replaced.
        save_anndata
            Whether the AnnData is written beside it (``adata.h5ad``).
        **anndata_write_kwargs
            Passed to :meth:`anndata.AnnData.write_h5ad`.

        Raises
        ------
        FileExistsError
            If the directory (with ``prefix``: a model of that prefix in it) exists and
            ``overwrite`` is false.
        TypeError
            If an argument is unknown, or a setting cannot be saved.
        ValueError
            If ``prefix`` is no beginning of a file's name, or there are no data to save.
        """
        self._check_write_arguments(anndata_write_kwargs, save_anndata)
        record = {
            "class": type(self).__name__,
            "mixvi_version": version("mixvi"),
            "scvi_version": version("scvi-tools"),
            "torch_version": str(torch.__version__),
            "init_params": self.init_params_,
            "registry": _plain(self.registry),
            "state": self._saved_state(),
            "with_anndata": save_anndata,
        }

        def write_cells(path: Path) -> None:
            with _writable(self.adata.uns):
                self.adata.write_h5ad(path, **anndata_write_kwargs)

        kept = {f"{_KEPT}{name}": of for name, of in self._saved_tensors().items()}
        weights = self.module.state_dict() | kept
        cells = write_cells if save_anndata else None
        write_model(dir_path, record, weights, overwrite, prefix or None, cells)

    def _check_write_arguments(self, given: dict[str, Any], save_anndata: bool) -> None:
        """Raise before anything is written if an argument of ``save`` has no meaning."""
        if save_anndata and self.adata is None:
            raise ValueError("save_anndata=True, but the model was loaded without data.")
        own = list(inspect.signature(SavedModelMixin.save).parameters)[1:-1]
        of_writer = list(inspect.signature(AnnData.write_h5ad).parameters)[2:]
        for name in given:
            if name not in of_writer:
                near = near_matches(name, [*own, *of_writer])
                raise TypeError(f"save has no argument {name!r}. {near}")
            if not save_anndata:
                raise TypeError(f"save: {name} is for the AnnData. Pass save_anndata=True as well.")

    @classmethod
    @told_by_class
    def load(
        cls,
        dir_path: str | Path,
        adata: AnnData | Literal[False] | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
    ) -> SavedModelMixin:
        """Load a model that :meth:`save` wrote. Nothing in the directory is executed.

        Parameters
        ----------
        dir_path
            The directory.
        adata
            Cells with the model's genes. ``None``: the AnnData saved with the model, if any;
            ``False``: no data.
        accelerator, device
            Where the model is put, as in scvi-tools.
        prefix
            Of the files' names, as it was given to :meth:`save`.

        Raises
        ------
        FileNotFoundError
            If the directory holds no model.
        ValueError
            If it holds another class or format version, damaged files, or a model of other genes
            or categories than ``adata`` has.
        """
        prefix = prefix or None
        record, weights = read_model(dir_path, cls.__name__, prefix)
        # a file of cells may also be left from a model that was overwritten
        if adata is None and record["with_anndata"]:
            adata = anndata.read_h5ad(cells_path(dir_path, prefix))
        registry = record["registry"]
        if adata is None or adata is False:
            model = cls(None, registry=registry, **record["init_params"])
        else:
            cls.setup_anndata(adata, source_registry=registry, **registry["setup_args"])
            model = cls(adata, **record["init_params"])
        weights, kept = apart(weights)
        model.module.load_state_dict(weights)
        model._restore_state(record["state"])
        model._restore_tensors(kept)
        model.module.eval()
        model._to(accelerator, device)
        return model

    def _to(self, accelerator: str, device: int | str) -> None:
        """Put the model where scvi-tools would."""
        *_, chosen = parse_device_args(
            accelerator=accelerator,
            devices=device,
            return_device="torch",
            validate_single_device=True,
        )
        self.to_device(chosen)

    @staticmethod
    def load_registry(dir_path: str | Path, prefix: str | None = None) -> dict:
        """The registry saved with a model: what was set up, and its categories and genes.

        Parameters
        ----------
        dir_path, prefix
            As for :meth:`load`.

        Raises
        ------
        FileNotFoundError
            If the directory holds no model.
        ValueError
            If it holds another format version or damaged files.
        """
        return from_json(read_record(dir_path, prefix or None))["registry"]

    @staticmethod
    def view_setup_args(dir_path: str | Path, prefix: str | None = None) -> None:
        """Print what ``setup_anndata`` was given for a saved model.

        Parameters
        ----------
        dir_path, prefix
            As for :meth:`load`.
        """
        AnnDataManager.view_setup_method_args(SavedModelMixin.load_registry(dir_path, prefix))

    @classmethod
    def convert_legacy_save(cls, *args: object, **kwargs: object) -> None:
        """Refused: mixvi's files are of one format, and not scvi-tools'.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            f"{cls.__name__}.save writes {JSON_NAME} and {WEIGHTS_NAME}, which {cls.__name__}.load "
            "reads; there is no older format to convert, and no model.pt, which scvi-tools' hub "
            "and checkpoints ask for. Share the directory as it is."
        )


@contextmanager
def _writable(uns: MutableMapping[str, Any]) -> Iterator[None]:
    """Tuples such as the shape of images as arrays meanwhile: h5ad files hold no tuples."""
    tuples = {key: value for key, value in uns.items() if isinstance(value, tuple)}
    uns.update({key: np.asarray(value) for key, value in tuples.items()})
    try:
        yield
    finally:
        uns.update(tuples)


def _plain(registry: dict) -> dict:
    """scvi-tools' registry without the identifiers of one Python session."""
    keep = ("scvi_version", "model_name", "setup_method_name", "setup_args", "field_registries")

    def plain(value: Any) -> Any:
        return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value

    return {key: plain(registry[key]) for key in keep if key in registry}
