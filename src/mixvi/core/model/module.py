"""What every module of mixvi shares: reading a minibatch and handing it to encoder and decoder."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass
from torch import Tensor, nn
from torch.nn import functional as F

from mixvi.core.data.keys import CALLS_KEY, COMPONENTS_KEY, CONDITION_KEY, SOFT_LABELS_KEY
from mixvi.core.data.resident import SPARSE_KEY
from mixvi.core.maths.additive import side_by_side
from mixvi.core.maths.likelihoods import make_likelihood
from mixvi.core.maths.networks import MLP
from mixvi.core.maths.sparse import SparseRows

_N_QUANTILES = 101


class Rows(NamedTuple):
    """One minibatch of cells as the networks see it."""

    x: Tensor | SparseRows
    """Data, ``(B, G)``; as entries where these are known and pay."""
    features: Tensor | SparseRows
    """Encoder input, ``(B, G)``: log1p of counts, else the data."""
    covariates: Tensor
    """Condition, categorical, continuous and batch covariates in this order, ``(B, C + S)``."""
    condition: Tensor
    """Condition codes, ``(B,)``."""
    batch: Tensor
    """Batch codes, ``(B,)``."""
    library: Tensor
    """Library size or size factor, ``(B, 1)``."""
    labels: Tensor
    """Label distribution over the known classes, ``(B, n_classes)``; zero rows if unlabelled."""
    labelled: Tensor
    """1 where the row has a label, else 0, ``(B,)``."""
    components: Tensor | None = None
    """Component codes ``(B,)`` to be taken as known, while components are being initialised."""
    calls: Tensor | None = None
    """Class codes ``(B,)`` that rows without a label were called at the start, -1 where none is."""

    @property
    def dense_x(self) -> Tensor:
        """Data for what needs every column, ``(B, G)``."""
        return self.x.dense() if isinstance(self.x, SparseRows) else self.x

    @property
    def dense_features(self) -> Tensor:
        """Encoder input for what needs every column, ``(B, G)``."""
        features = self.features
        return features.dense() if isinstance(features, SparseRows) else features


class MixviModule(BaseModuleClass):
    """Base of the modules: sizes, likelihood, covariates.

    Parameters
    ----------
    n_input
        Number of genes G.
    n_classes
        Number of labelled classes.
    n_conditions
        Number of condition categories C; 0 for a model without conditions. Of several columns, the
        number of each: C is that of their combinations.
    n_batch, n_cats_per_cov, n_continuous_cov
        Nuisance covariates, as in scvi-tools.
    has_size_factor
        Whether a size factor was registered; minibatches made elsewhere may have one unasked.
    likelihood, output_activation, sigma, dispersion
        See :func:`mixvi.core.maths.likelihoods.make_likelihood`.
    n_hidden, n_layers, dropout_rate, use_batch_norm, inject_covariates
        See :class:`mixvi.core.maths.networks.MLP`.
    """

    # whether weights are those of a reference, onto which a query is mapped
    is_frozen = False

    def __init__(
        self,
        n_input: int,
        *,
        n_classes: int = 0,
        n_conditions: int | Sequence[int] = 0,
        n_batch: int = 1,
        n_cats_per_cov: Sequence[int] = (),
        n_continuous_cov: int = 0,
        has_size_factor: bool = False,
        likelihood: str = "gaussian",
        output_activation: str | None = None,
        sigma: str = "feature",
        dispersion: str = "gene",
        n_hidden: int = 256,
        n_layers: int = 2,
        dropout_rate: float = 0.15,
        use_batch_norm: bool = True,
        inject_covariates: bool = False,
    ):
        super().__init__()
        self.n_input = n_input
        self.n_classes = n_classes
        sizes = (n_conditions,) if isinstance(n_conditions, int) else tuple(n_conditions)
        self.n_conditions = math.prod(sizes) if sizes else 0
        # combinations have the columns of each of their categories, side by side
        self.n_condition_columns = sum(sizes)
        self.condition_sizes = sizes
        if len(sizes) > 1:
            columns = torch.as_tensor(side_by_side(sizes), dtype=torch.float32)
            self.register_buffer("combination_columns", columns, persistent=False)
        self.n_batch = n_batch
        self.n_cats_per_cov = tuple(n_cats_per_cov)
        self.has_size_factor = has_size_factor
        # one batch is a constant column: left out
        self.n_covariates = (
            self.n_condition_columns
            + sum(self.n_cats_per_cov)
            + n_continuous_cov
            + (n_batch if n_batch > 1 else 0)
        )
        self._mlp_options = {
            "n_hidden": n_hidden,
            "n_layers": n_layers,
            "dropout_rate": dropout_rate,
            "batch_norm": use_batch_norm,
            "inject": inject_covariates,
        }
        self.likelihood = make_likelihood(
            likelihood,
            n_input,
            output_activation=output_activation,
            sigma=sigma,
            dispersion=dispersion,
            n_batch=n_batch,
            has_size_factor=has_size_factor,
        )
        # what a generated cell has where the user names nothing: set from the training data
        self.register_buffer("typical_covariates", torch.zeros(self.n_covariates))
        self.register_buffer("typical_batch", torch.zeros((), dtype=torch.long))
        self.register_buffer("typical_library", torch.ones(()))
        self.register_buffer("library_quantiles", torch.zeros(n_batch, _N_QUANTILES))

    def train(self, mode: bool = True) -> MixviModule:
        """Set the mode; batch norm and dropout of a frozen reference stay as in inference.

        Statistics of a minibatch of one new batch would take away what is particular to it.
        """
        super().train(mode)
        if self.is_frozen:
            for part in self.modules():
                if isinstance(part, nn.BatchNorm1d | nn.Dropout):
                    part.eval()
        return self

    def make_mlp(self, n_in: int, n_out: int, n_covariates: int = 0) -> MLP:
        """A network with this module's width, depth, dropout and batch norm."""
        return MLP(n_in, n_out, n_covariates, **self._mlp_options)

    def rows(self, tensors: dict[str, Tensor]) -> Rows:
        """Read one scvi-tools minibatch (registry key -> tensor) into :class:`Rows`."""
        x = self._read_x(tensors)
        batch = _codes(tensors, REGISTRY_KEYS.BATCH_KEY, self.n_batch, x)
        condition = _codes(tensors, CONDITION_KEY, self.n_conditions, x)
        categories = tensors.get(REGISTRY_KEYS.CAT_COVS_KEY)
        continuous = tensors.get(REGISTRY_KEYS.CONT_COVS_KEY)
        parts = [self.one_hot_condition(condition, x.dtype)]
        for i, n in enumerate(self.n_cats_per_cov):
            parts.append(F.one_hot(categories[:, i].long(), n).to(x.dtype))
        if continuous is not None:
            parts.append(continuous.to(x.dtype))
        if self.n_batch > 1:
            parts.append(F.one_hot(batch, self.n_batch).to(x.dtype))
        if self.has_size_factor:
            library = tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY]
        else:
            library = x.row_sums() if isinstance(x, SparseRows) else x.sum(-1)
        labels = self._read_labels(tensors, x)
        return Rows(
            x=x,
            features=x.log1p() if self.likelihood.is_count else x,
            covariates=torch.cat(parts, dim=-1),
            condition=condition,
            batch=batch,
            library=library.to(x.dtype).view(-1, 1),
            labels=labels,
            labelled=(labels.sum(-1) > 0.5).to(x.dtype),
            components=tensors.get(COMPONENTS_KEY),
            calls=tensors.get(CALLS_KEY),
        )

    @staticmethod
    def _read_x(tensors: dict[str, Tensor]) -> Tensor | SparseRows:
        """Entries where they are given and pay, else the matrix."""
        entries = tensors.get(SPARSE_KEY)
        # their number changes: compiled code would be compiled anew for each
        if entries is not None and entries.pays() and not torch.compiler.is_compiling():
            return entries
        x = tensors.get(REGISTRY_KEYS.X_KEY)
        return entries.dense() if x is None else x

    def one_hot_condition(self, condition: Tensor, dtype: torch.dtype) -> Tensor:
        """Condition codes ``(B,)`` as one-hot rows ``(B, C)``; no columns without conditions.

        Of combinations, the one-hot rows of each column side by side.
        """
        if self.n_conditions == 0:
            return torch.zeros(len(condition), 0, dtype=dtype, device=condition.device)
        if len(self.condition_sizes) > 1:
            return self.combination_columns[condition].to(dtype)
        return F.one_hot(condition, self.n_conditions).to(dtype)

    def with_condition(self, rows: Rows, condition: Tensor) -> Rows:
        """The same rows under other condition codes ``(B,)``."""
        covariates = rows.covariates.clone()
        columns = self.one_hot_condition(condition, covariates.dtype)
        covariates[:, : self.n_condition_columns] = columns
        return rows._replace(covariates=covariates, condition=condition)

    def with_batch(self, rows: Rows, batch: Tensor) -> Rows:
        """The same rows under other batch codes ``(B,)``."""
        if self.n_batch == 1:
            return rows
        covariates = rows.covariates.clone()
        covariates[:, -self.n_batch :] = F.one_hot(batch, self.n_batch).to(covariates.dtype)
        return rows._replace(covariates=covariates, batch=batch)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        key = f"{prefix}library_quantiles"
        if key not in state_dict:
            # of a model saved when all were the median, and size factors scaled proportions
            median = state_dict[f"{prefix}typical_library"]
            state_dict[key] = median.expand_as(self.library_quantiles)
            self.likelihood.scale_activation = "softmax"
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def meet_libraries(self, library: np.ndarray, totals: np.ndarray, batch: np.ndarray) -> None:
        """Keep what generated cells need to know of the training cells' library sizes.

        Parameters
        ----------
        library
            Library size or size factor of each cell, ``(n,)``.
        totals
            Sum of its counts, ``(n,)``.
        batch
            Its batch code, ``(n,)``. A batch without cells keeps what it has, at first all cells'.
        """
        if self.has_size_factor and not self.library_quantiles.any():
            # rates begin where proportions would: at the mean count, the same for all genes
            rate = float(totals.sum() / library.sum()) / self.n_input
            self.decoder.linears[-1].bias[: self.n_input] += math.log(math.expm1(rate))
        self.typical_library.fill_(float(np.median(library)))
        places = np.linspace(0.0, 1.0, _N_QUANTILES)
        found = {code: np.quantile(library[batch == code], places) for code in np.unique(batch)}
        everything = np.quantile(library, places)
        for code, known in enumerate(self.library_quantiles):
            if code in found or not known.any():
                known.copy_(torch.as_tensor(found.get(code, everything)))

    def synthetic_rows(
        self,
        condition: Tensor,
        *,
        batch: int | None = None,
        library_size: float | None = None,
        typical: bool = True,
    ) -> Rows:
        """Rows for generated cells; covariates are typical of the training cells.

        Parameters
        ----------
        condition
            Condition codes, ``(B,)``.
        batch
            Batch code; ``None``: the most frequent one.
        library_size
            Library size or size factor of all; ``None``: as the training cells of the batch.
        typical
            Their median, or a draw for each cell.
        """
        n = len(condition)
        empty = self.typical_covariates.new_zeros(n, 0)
        batch = self.typical_batch if batch is None else torch.full_like(self.typical_batch, batch)
        rows = Rows(
            x=empty,
            features=empty,
            covariates=self.typical_covariates.expand(n, -1),
            condition=condition,
            batch=batch.expand(n),
            library=self._libraries(n, batch, library_size, typical),
            labels=empty,
            labelled=self.typical_covariates.new_zeros(n),
        )
        return self.with_batch(self.with_condition(rows, condition), rows.batch)

    def _libraries(
        self, n: int, batch: Tensor, library_size: float | None, typical: bool
    ) -> Tensor:
        if library_size is not None:
            return self.typical_library.new_full((n, 1), library_size)
        known = self.library_quantiles[batch]
        if not known.any():
            # models without counts
            return self.typical_library.expand(n, 1)
        if typical:
            return known[_N_QUANTILES // 2].expand(n, 1)
        place = torch.rand(n, 1, device=known.device) * (_N_QUANTILES - 1)
        below = place.long().clamp_max(_N_QUANTILES - 2)
        return torch.lerp(known[below], known[below + 1], place - below)

    def _read_labels(self, tensors: dict[str, Tensor], x: Tensor | SparseRows) -> Tensor:
        soft = tensors.get(SOFT_LABELS_KEY)
        if soft is not None:
            return soft.to(x.dtype)
        if self.n_classes == 0:
            return torch.zeros(len(x), 0, dtype=x.dtype, device=x.device)
        codes = tensors[REGISTRY_KEYS.LABELS_KEY].long().view(-1)
        # the code after the last class is the unlabelled category: its column is cut off
        return F.one_hot(codes, self.n_classes + 1)[:, :-1].to(x.dtype)

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs) -> dict:
        return {"rows": self.rows(tensors)}

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict, **kwargs
    ) -> dict:
        return {"rows": inference_outputs["rows"], "z": inference_outputs["z"]}

    def reconstruction_loss(self, rows: Rows, raw: Tensor) -> Tensor:
        """Minus log p(x | z), ``(B,)``, in float32 or better whatever the autocast says."""
        with torch.autocast(rows.x.device.type, enabled=False):
            raw = raw.float() if raw.dtype in (torch.float16, torch.bfloat16) else raw
            x = rows.x if self.likelihood.is_count else rows.dense_x
            return self.likelihood.neg_log_prob(x, raw, rows.library, rows.batch)

    def epoch_summary(self, collected: dict[str, Tensor]) -> dict[str, float]:
        """Figures of one epoch from the row means of what ``loss`` put in ``extra_metrics``."""
        return {}

    @abstractmethod
    def encode(self, rows: Rows) -> dict[str, Tensor]:
        """Parameters of the variational posteriors; keys ``mu_z``, ``lv_z`` and the like."""

    @abstractmethod
    def decode(self, z: Tensor, rows: Rows) -> Tensor:
        """Raw decoder output for ``z`` ``(B, n_latent)`` under the rows' covariates."""


def _codes(
    tensors: dict[str, Tensor], key: str, n_categories: int, x: Tensor | SparseRows
) -> Tensor:
    """Codes ``(B,)``; a minibatch made elsewhere may lack those of a single category."""
    if key in tensors:
        return tensors[key].long().view(-1)
    if n_categories > 1:
        raise KeyError(
            f"The minibatches lack {key!r}, of which the model knows {n_categories} categories. "
            "They have " + ", ".join(map(repr, tensors)) + ". Give them in the datamodule."
        )
    return torch.zeros(len(x), dtype=torch.long, device=x.device)
