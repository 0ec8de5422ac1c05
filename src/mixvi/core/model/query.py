"""Query mapping: new cells on a trained reference, whose weights may stay (scArches' surgery)."""

from __future__ import annotations

from pathlib import Path

import torch
from anndata import AnnData
from torch import Tensor, nn

from mixvi.core.arguments import told_by_class
from mixvi.core.data.files import read_model
from mixvi.core.model.saved_model import apart

# name of a weight: the axis along which it grew, and how many of its last entries are free
Columns = dict[str, tuple[int, int]]
_OF_TRAINING = (
    "history",
    "start_history",
    "train_indices",
    "validation_indices",
    "test_indices",
    "calibration_indices",
    "calibration_names",
)


class QueryMixin:
    """``load_query_data`` of a model; a frozen reference trains what is new to it alone."""

    # of a model on a frozen reference: what it trains
    free_columns_: Columns | None = None

    @classmethod
    @told_by_class
    def load_query_data(
        cls,
        adata: AnnData,
        reference_model: str | Path | QueryMixin,
        *,
        freeze: bool = True,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> QueryMixin:
        """A model for query cells that starts from a trained reference (Lotfollahi et al. 2022).

        New batches get weights of their own, which start at zero; with ``freeze`` they alone are
        trained by :meth:`train`, and everything else, batch norm included, stays the reference's.
        The model is ready as it is: components keep the reference's labels before and after.

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
        if isinstance(reference_model, QueryMixin):
            if type(reference_model) is not cls:
                raise ValueError(
                    f"reference_model is a {type(reference_model).__name__}, not a {cls.__name__}."
                )
            registry, weights = reference_model.registry, reference_model.module.state_dict()
            init_params, state = reference_model.init_params_, reference_model._saved_state()
            kept = reference_model._saved_tensors()
        else:
            record, tensors = read_model(reference_model, cls.__name__)
            weights, kept = apart(tensors)
            registry, init_params = record["registry"], record["init_params"]
            state = record["state"]
        cls.setup_anndata(
            adata, source_registry=registry, extend_categories=True, **registry["setup_args"]
        )
        model = cls(adata, **init_params)
        new = len(model._batch_names(model.registry)) - len(model._batch_names(registry))
        free = take_weights(model.module, weights, new)
        # the history and the cells of training are the reference's
        own = dict.fromkeys(_OF_TRAINING) | {"free_columns": free if freeze else None}
        model._restore_state(state | own)
        model._restore_tensors(kept)
        model.module.eval()
        model._to(accelerator, device)
        return model

    @staticmethod
    def _batch_names(registry: dict) -> list:
        field = registry["field_registries"].get("batch", {})
        return list(field.get("state_registry", {}).get("categorical_mapping", ()))

    def _saved_state(self) -> dict:
        return super()._saved_state() | {"free_columns": self.free_columns_}

    def _restore_state(self, state: dict) -> None:
        super()._restore_state(state)
        free = state.get("free_columns")
        if free is not None and self.free_columns_ is None:
            freeze_reference(self.module, free)
        self.free_columns_ = free

    def _check_trainable(self) -> None:
        """Raise ValueError if everything is frozen."""
        if self.free_columns_ == {}:
            raise ValueError(
                "There is nothing to train: the reference is frozen, and the query has no batch "
                "that is new to it. The model is ready as it is; "
                "load_query_data(..., freeze=False) trains the reference on."
            )


def take_weights(module: nn.Module, weights: dict[str, Tensor], n_new: int) -> Columns:
    """Copy a reference's weights; entries that only the query has start neutral.

    Parameters
    ----------
    module
        The query's.
    weights
        The reference's.
    n_new
        Batches that the reference has not. Batches come last among the covariates, so a weight that
        grew has the reference's block first. The first of all may be among what grew: a single
        batch is no covariate.

    Returns
    -------
    Which entries belong to new batches.
    """
    free = {}
    parameters = dict(module.named_parameters())
    for name, target in module.state_dict().items():
        source = weights.get(name)
        if source is not None and source.shape == target.shape:
            target.copy_(source)
            continue
        target.zero_()
        if source is None:
            axis = 1
        else:
            axis = next(i for i, n in enumerate(source.shape) if n != target.shape[i])
            if name.endswith("log_theta"):
                target.copy_(source.mean(0, keepdim=True).expand_as(target))
            target[tuple(slice(n) for n in source.shape)] = source
        if name in parameters:
            free[name] = (axis, n_new)
    return free


def freeze_reference(module: nn.Module, free: Columns) -> None:
    """Train only entries that belong to new batches; batch norm and dropout stay in eval mode."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in free)
        if name in free:
            axis, n = free[name]
            mask = torch.zeros_like(parameter)
            mask.narrow(axis, parameter.shape[axis] - n, n).fill_(1.0)
            parameter.register_hook(lambda grad, mask=mask: grad * mask.to(grad.device))
    module.is_frozen = True
