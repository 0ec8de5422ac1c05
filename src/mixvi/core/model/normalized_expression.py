"""Decoded expression, freed of library size, batch and condition."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import settings
from torch import Tensor

from mixvi.core import arguments
from mixvi.core.model.module import Rows


class NormalizedExpressionMixin:
    """``get_normalized_expression``, and what verbs share that decode under another batch."""

    @torch.inference_mode()
    def get_normalized_expression(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        transform_condition: str | None = None,
        transform_batch: str | Sequence[str] | None = None,
        gene_list: Sequence[str] | None = None,
        library_size: float | Literal["latent"] = 1,
        n_samples: int = 1,
        n_samples_overall: int | None = None,
        give_mean: bool = True,
        return_mean: bool = True,
        return_numpy: bool | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame | np.ndarray:
        """Decoded expression, freed of library size (and of condition or batch on demand).

        Parameters
        ----------
        transform_condition, transform_batch
            Decode every cell as if it were of this condition or batch; z stays as encoded. Several
            batches are averaged over.
        gene_list
            Names of the genes to return; default all.
        library_size
            Count likelihoods: the total that proportions are scaled to, or ``"latent"`` for the
            cell's own library size. Others return the scale of the registered matrix.
        n_samples
            Draws of z a cell, if there are to be several.
        n_samples_overall
            So many draws of z of cells drawn with replacement, instead of ``n_samples`` of each.
        give_mean
            z at its mean where one value a cell is asked for, or at a draw.
        return_mean
            The mean of several draws, or each.
        return_numpy
            An array instead of a DataFrame.

        Returns
        -------
        DataFrame ``(n_obs, n_genes)`` by cell and gene name; ``(n_samples_overall, n_genes)`` by
        the names of the cells drawn; an array ``(n_samples, n_obs, n_genes)`` of several draws
        with ``return_mean=False``.

        Raises
        ------
        KeyError
            If a gene is unknown.
        ValueError
            If a batch or condition is unknown, or a library size is asked of a likelihood without.
        """
        adata = self._validate_anndata(adata)
        arguments.check_positive("n_samples", n_samples)
        self._check_library_size(library_size)
        condition = self._condition_code(transform_condition, "transform_condition")
        batches = self._batch_codes(transform_batch)
        genes = slice(None) if gene_list is None else self._positions_of_genes(gene_list)
        chosen = self._check_indices(adata, indices)
        if n_samples_overall is not None:
            arguments.check_positive("n_samples_overall", n_samples_overall)
            if n_samples > 1:
                raise ValueError("Pass n_samples or n_samples_overall, not both.")
            # sorted, because data on disk are read in order
            chosen = np.sort(np.random.choice(chosen, n_samples_overall))
        use_mean = give_mean and n_samples == 1 and n_samples_overall is None
        average = return_mean or n_samples == 1
        parts = []
        for rows in self._batches(adata, chosen, batch_size):
            targets = [self._decoded_as(rows, batch, condition) for batch in batches]
            draws = (
                sum(self._proportions(z, target, library_size, genes) for target in targets)
                for z in (self._z(rows, use_mean) for _ in range(n_samples))
            )
            part = sum(draws) / n_samples if average else torch.stack(list(draws))
            parts.append((part / len(batches)).cpu())
        values = torch.cat(parts, dim=-2).numpy()
        if not average and return_numpy is False:
            warnings.warn(
                "Several draws of each cell make no DataFrame: an array is returned.",
                UserWarning,
                stacklevel=settings.warnings_stacklevel,
            )
        if return_numpy or not average:
            return values
        return pd.DataFrame(values, index=adata.obs_names[chosen], columns=self.var_names[genes])

    def _proportions(
        self, z: Tensor, rows: Rows, library_size: float | str, genes: slice | list[int]
    ) -> Tensor:
        likelihood = self.module.likelihood
        proportions = likelihood.proportions(self.module.decode(z, rows))[:, genes]
        if not likelihood.is_count:
            return proportions
        return proportions * (rows.library if library_size == "latent" else library_size)

    def _check_library_size(self, library_size: object) -> None:
        if isinstance(library_size, str):
            arguments.check_choice("library_size", library_size, ("latent",))
            return
        arguments.check_positive("library_size", library_size, integer=False)
        likelihood = self.module.likelihood
        if library_size != 1 and not likelihood.is_count:
            raise ValueError(
                f"library_size scales proportions of counts, but likelihood={likelihood.name!r} "
                f"returns the scale of {self._x_name}. Leave library_size out."
            )

    def _decoded_as(self, rows: Rows, batch: int | None, condition: int | None = None) -> Rows:
        """The rows as of another batch or condition, for the decoder."""
        if condition is not None:
            rows = self.module.with_condition(rows, torch.full_like(rows.condition, condition))
        if batch is not None:
            rows = self.module.with_batch(rows, torch.full_like(rows.batch, batch))
        return rows

    def _batch_codes(self, transform_batch: str | Sequence[str] | None) -> list[int | None]:
        """Codes of one or several batches; of none, the cells' own."""
        names = [transform_batch] if np.ndim(transform_batch) == 0 else list(transform_batch)
        if len(names) == 0:
            raise ValueError("transform_batch names no batch. Leave it out for the cells' own.")
        return [self._code(name, self.batches, "transform_batch") for name in names]

    def _positions_of_genes(self, gene_list: Sequence[str]) -> list[int]:
        """Positions of genes by name; an error that names the first that is not there, or twice."""
        positions = []
        for gene in [gene_list] if isinstance(gene_list, str) else gene_list:
            found = np.flatnonzero(self.var_names == gene)
            if len(found) == 0:
                raise KeyError(
                    f"gene_list has {gene!r}, which is not a gene of the model. "
                    + arguments.near_matches(gene, self.var_names)
                )
            if len(found) > 1:
                raise ValueError(
                    f"gene_list has {gene!r}, but {len(found)} genes of the model are called so. "
                    "Call adata.var_names_make_unique() before set-up and training."
                )
            positions.append(int(found[0]))
        return positions
