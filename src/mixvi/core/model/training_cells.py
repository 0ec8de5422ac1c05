"""What a model keeps of the cells it was trained on, so that it need not be given them again."""

from __future__ import annotations

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor

from mixvi.core.data.support import support_of
from mixvi.core.maths.hurdle import Hurdle
from mixvi.core.model.counterfactual import match_group_means
from mixvi.core.model.module import Rows

_MOST_CELLS = 2000


class TrainingCellsMixin:
    """Values of the training cells and how they spread; saved with the model.

    Statistics are taken when they are first needed after training, or when the model is saved.
    """

    support_: str | None = None
    """Values that the model was trained on: ``"count"``, ``"non-negative"`` or ``"real"``."""

    _hurdle: Hurdle | None = None
    # whether the model's own AnnData holds the cells that it was trained on
    _has_training_cells: bool = False

    def _fit(self, *args, **kwargs):
        if self._is_frozen_reference:
            # its cells are coded as they were
            return super()._fit(*args, **kwargs)
        self.support_ = support_of(self.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY))
        self._has_training_cells = True
        try:
            return super()._fit(*args, **kwargs)
        finally:
            self._forget_training_cells()

    def _prepare_checkpoint(self, *args) -> None:
        if not self._is_frozen_reference:
            self._forget_training_cells()
        super()._prepare_checkpoint(*args)

    @property
    def _is_frozen_reference(self) -> bool:
        """Whether training adds to the weights of a reference and leaves those as they are."""
        return not self.module.decoder.linears[-1].weight.requires_grad

    def _forget_training_cells(self) -> None:
        """Drop statistics of weights that have changed; subclasses add to it."""
        self._hurdle = None

    @torch.inference_mode()
    def _training_hurdle(self) -> Hurdle | None:
        """How values spread around the decoder's means; None if the likelihood serves."""
        likelihood = self.module.likelihood
        stays_in_support = likelihood.is_count or likelihood.name == "bernoulli"
        if not self._needs_condition or stays_in_support or self.support_ in (None, "real"):
            return None
        if self._hurdle is None and self._has_training_cells:
            self._hurdle = self._fitted_hurdle()
        return self._hurdle and self._hurdle.to(self.module.device)

    def _fitted_hurdle(self) -> Hurdle:
        trained = self.train_indices
        trained = np.arange(self.adata.n_obs) if trained is None else np.asarray(trained)
        chosen = trained[:: -(-len(trained) // _MOST_CELLS)]
        x, means = [], []
        for rows in self._batches(self.adata, chosen, None):
            raw = self.module.decode(self._z(rows, use_mean=True), rows)
            x.append(rows.dense_x)
            means.append(self.module.likelihood.mean(raw, rows.library))
        return Hurdle.fit(torch.cat(x), torch.cat(means))

    def _drawn(
        self, raw: Tensor, rows: Rows, use_mean: bool, added: Tensor | float = 0.0
    ) -> Tensor:
        """Decoder means or draws of x, within the support of the training cells, ``(B, G)``.

        ``added`` corrects the means, ``(B, G)``.
        """
        likelihood = self.module.likelihood
        mean = likelihood.mean(raw, rows.library) + added
        hurdle = self._training_hurdle()
        if use_mean:
            is_real = self.support_ in (None, "real")
            return mean if is_real else mean.clamp(0.0, likelihood.largest_mean)
        if hurdle is not None:
            return hurdle.sample(mean)
        return likelihood.sample(raw, rows.library, rows.batch)

    def _carried_over(
        self,
        rows: Rows,
        raw: Tensor,
        raw_there: Tensor,
        added: tuple[Tensor | float, Tensor | float] = (0.0, 0.0),
    ) -> Tensor:
        """The cells themselves, had the decoder given ``raw_there`` for ``raw``, ``(B, G)``.

        ``added`` corrects both means, each ``(B, G)``.
        """
        likelihood, library = self.module.likelihood, rows.library
        hurdle = self._training_hurdle()
        if hurdle is None:
            return likelihood.carry_over(rows.dense_x, raw, raw_there, library, rows.batch, added)
        here, there = (
            likelihood.mean(of, library) + more
            for of, more in zip((raw, raw_there), added, strict=True)
        )
        return hurdle.carry_over(rows.dense_x, here, there)

    def _centred(self, x: np.ndarray, means: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Converted cells with the groups' averages of ``means``, see :func:`match_group_means`."""
        activation = self.module.likelihood.output_activation
        nonnegative = activation is not None or self.support_ in ("count", "non-negative")
        return match_group_means(x, means, groups, nonnegative)

    def _saved_state(self) -> dict:
        hurdle = self._training_hurdle() if self.is_trained_ else None
        values = hurdle and [part.cpu().numpy() for part in hurdle]
        return super()._saved_state() | {"support": self.support_, "hurdle": values}

    def _restore_state(self, state: dict) -> None:
        super()._restore_state(state)
        # directories of version 0.1.0 have neither
        self.support_ = state.get("support")
        hurdle = state.get("hurdle")
        self._hurdle = hurdle and Hurdle(*map(torch.as_tensor, hurdle))
