"""The verbs that write a model to disk, read it back, and carry it over to query data."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import anndata
import torch
from anndata import AnnData
from scvi.model._utils import parse_device_args

from mixvi.core.data.files import ADATA_NAME, read_model, write_model
from mixvi.core.model.query import freeze_reference, load_reference_weights


class SavedModelMixin:
    """``save``, ``load`` and ``load_query_data`` of a mixvi model."""

    def _saved_state(self) -> dict:
        """What beside weights and settings a saved model remembers; subclasses add to it."""
        return {
            "is_trained": self.is_trained_,
            "history": self.history_,
            "train_indices": self.train_indices_,
            "validation_indices": self.validation_indices_,
        }

    def _restore_state(self, state: dict) -> None:
        self.is_trained_ = state["is_trained"]
        self.history_ = state["history"]
        self.train_indices_ = state["train_indices"]
        self.validation_indices_ = state["validation_indices"]

    def save(
        self,
        dir_path: str | Path,
        overwrite: bool = False,
        save_anndata: bool = False,
        **anndata_write_kwargs,
    ) -> None:
        """Write the model into a directory that is safe to load: tensors and JSON, no code.

        Parameters
        ----------
        dir_path
            The directory.
        overwrite
            Whether an existing model there is replaced.
        save_anndata
            Whether the AnnData is written beside it (``adata.h5ad``).
        **anndata_write_kwargs
            Passed to :meth:`anndata.AnnData.write_h5ad`.

        Raises
        ------
        FileExistsError
            If the directory exists and ``overwrite`` is false.
        """
        if save_anndata and self.adata is None:
            raise ValueError("save_anndata=True, but the model was loaded without data.")
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
        directory = write_model(dir_path, record, self.module.state_dict(), overwrite)
        if save_anndata:
            self.adata.write_h5ad(directory / ADATA_NAME, **anndata_write_kwargs)

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: AnnData | Literal[False] | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
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

        Raises
        ------
        FileNotFoundError
            If the directory holds no model.
        ValueError
            If it holds another class or format version, damaged files, or a model of other genes
            or categories than ``adata`` has.
        """
        record, weights = read_model(dir_path, cls.__name__)
        # a file of cells may also be left from a model that was overwritten
        if adata is None and record["with_anndata"]:
            adata = anndata.read_h5ad(Path(dir_path) / ADATA_NAME)
        registry = record["registry"]
        if isinstance(adata, AnnData):
            cls.setup_anndata(adata, source_registry=registry, **registry["setup_args"])
            model = cls(adata, **record["init_params"])
        else:
            model = cls(None, registry=registry, **record["init_params"])
        model.module.load_state_dict(weights)
        model._restore_state(record["state"])
        model.module.eval()
        _to_device(model, accelerator, device)
        return model

    @classmethod
    def load_query_data(
        cls,
        adata: AnnData,
        reference_model: str | Path | SavedModelMixin,
        *,
        freeze: bool = True,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> SavedModelMixin:
        """A model for query cells that starts from a trained reference (Lotfollahi et al. 2022).

        New batches get weights of their own, which start at zero; with ``freeze`` they alone are
        trained by :meth:`train`. Without new batches the model is ready as it is.

        Parameters
        ----------
        adata
            Query cells with the reference's genes in the reference's order, and its ``obs`` keys
            (labels may be missing).
        reference_model
            A trained model or the directory it was saved in.
        freeze
            Whether the reference's weights stay as they are.

        Raises
        ------
        ValueError
            If genes differ, or a condition or covariate category is not known to the reference.
        """
        if isinstance(reference_model, SavedModelMixin):
            if type(reference_model) is not cls:
                raise ValueError(
                    f"reference_model is a {type(reference_model).__name__}, not a {cls.__name__}."
                )
            registry, weights = reference_model.registry, reference_model.module.state_dict()
            init_params, state = reference_model.init_params_, reference_model._saved_state()
        else:
            record, weights = read_model(reference_model, cls.__name__)
            registry, init_params, state = (
                record["registry"],
                record["init_params"],
                record["state"],
            )
        cls.setup_anndata(
            adata, source_registry=registry, extend_categories=True, **registry["setup_args"]
        )
        model = cls(adata, **init_params)
        grown = load_reference_weights(model.module, weights)
        model._restore_state(state | {"train_indices": None, "validation_indices": None})
        if grown and freeze:
            freeze_reference(model.module, weights)
        model.is_trained_ = not grown
        model.module.eval()
        _to_device(model, accelerator, device)
        return model


def _to_device(model: SavedModelMixin, accelerator: str, device: int | str) -> None:
    _, _, chosen = parse_device_args(
        accelerator=accelerator, devices=device, return_device="torch", validate_single_device=True
    )
    model.to_device(chosen)


def _plain(registry: dict) -> dict:
    """scvi-tools' registry without the identifiers of one Python session."""
    keep = ("scvi_version", "model_name", "setup_method_name", "setup_args", "field_registries")

    def plain(value: Any) -> Any:
        return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value

    return {key: plain(registry[key]) for key in keep if key in registry}
