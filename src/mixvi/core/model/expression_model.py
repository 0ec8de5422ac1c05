"""The base of models of expression: the verbs that these models share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

from mixvi.core import arguments
from mixvi.core.data import checks
from mixvi.core.data.annotations import Annotations, check_key_added
from mixvi.core.data.combinations import columns_of
from mixvi.core.data.fields import name_of
from mixvi.core.model.anndata_model import AnnDataModel
from mixvi.core.model.card import listed
from mixvi.core.model.module import MixviModule, Rows
from mixvi.core.model.normalized_expression import NormalizedExpressionMixin
from mixvi.core.model.posterior_predictive import PosteriorPredictiveMixin
from mixvi.core.model.registering import RegisteringMixin
from mixvi.core.model.training_cells import TrainingCellsMixin
from mixvi.core.training.fitting import FittingMixin


class MixviModel(
    RegisteringMixin,
    TrainingCellsMixin,
    FittingMixin,
    NormalizedExpressionMixin,
    PosteriorPredictiveMixin,
    AnnDataModel,
):
    """Base of models of expression. Subclasses build ``self.module`` and add their own verbs."""

    _latents: ClassVar[tuple[str, ...]] = ("z",)
    _prefix: ClassVar[str]

    module: MixviModule

    def _data_text(self) -> str:
        """See :class:`CardMixin`: size, and each registered column with its categories."""
        args, n = self._setup_args, self.summary_stats["n_cells"]
        of = "not loaded; trained on " if self.adata is None else ""
        texts = [f"{of}{n:,} cells x {len(self.var_names):,} genes of {self._x_name}"]
        named = {
            "condition": list(map(name_of, self.conditions)),
            "batch": self.batches,
            "labels": self.classes,
        }
        for name, values in named.items():
            key = args[f"{name}_key"] or (name == "labels" and args["soft_labels_key"])
            if key:
                texts.append(f"{name} {key!r} ({len(values)}: {listed(values)})")
        covariates = [
            *(args["categorical_covariate_keys"] or ()),
            *(args["continuous_covariate_keys"] or ()),
        ]
        if covariates:
            texts.append(f"covariates {', '.join(map(repr, covariates))}")
        if args["size_factor_key"] is not None:
            texts.append(f"size factor {args['size_factor_key']!r}")
        return "; ".join(texts)

    @property
    def _note(self) -> dict[str, str | None]:
        """What predicted cells say of their origin, see :func:`predicted_adata`."""
        layer = self._setup_args["layer"]
        return {"source": type(self).__name__, "layer": layer, "scale": self.support_}

    def _registered_obs(self, rows: Rows) -> pd.DataFrame:
        """The columns of ``obs`` that would be read as ``rows``, ``(B, n_columns)``."""
        args, columns = self._setup_args, {}
        covariates = rows.covariates.cpu().numpy()
        if self.conditions:
            codes = np.unravel_index(rows.condition.cpu().numpy(), self._condition_sizes)
            of_columns = columns_of(self.condition_key), codes, self._condition_categories
            for key, of, names in zip(*of_columns, strict=True):
                columns[key] = pd.Categorical.from_codes(of, names)
        start = self.module.n_condition_columns
        for key, n in zip(
            args["categorical_covariate_keys"] or (), self.module.n_cats_per_cov, strict=True
        ):
            names = self._state(REGISTRY_KEYS.CAT_COVS_KEY)["mappings"][key]
            codes = covariates[:, start : start + n].argmax(axis=1)
            columns[key] = pd.Categorical.from_codes(codes, list(names))
            start += n
        for i, key in enumerate(args["continuous_covariate_keys"] or ()):
            columns[key] = covariates[:, start + i]
        if args["batch_key"] is not None:
            columns[args["batch_key"]] = pd.Categorical.from_codes(
                rows.batch.cpu().numpy(), self.batches
            )
        if args["size_factor_key"] is not None:
            columns[args["size_factor_key"]] = rows.library.cpu().numpy().ravel()
        return pd.DataFrame(columns, index=pd.RangeIndex(len(covariates)))

    @torch.inference_mode()
    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        which: str = "z",
        give_mean: bool = True,
        return_dist: bool = False,
        n_samples: int = 1,
        batch_size: int | None = None,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Latent coordinates of each cell.

        Parameters
        ----------
        adata, indices, batch_size
            Cells to encode (default: all the model was built on) and how many at a time.
        which
            The latent: ``"z"``, or ``"w"`` where the model has one.
        give_mean
            Mean of the posterior, or a sample of it.
        return_dist
            Return mean and variance of the posterior instead.
        n_samples
            Number of samples if ``give_mean`` is false.

        Returns
        -------
        ``(n_obs, n_latent)``; ``(n_samples, n_obs, n_latent)`` for several samples; or the pair
        (mean, variance), each ``(n_obs, n_latent)``.

        Raises
        ------
        ValueError
            If the model has no such latent, or the data do not fit the model.
        """
        arguments.check_choice("which", which, self._latents)
        arguments.check_positive("n_samples", n_samples)
        adata = self._validate_anndata(adata)
        means, variances = [], []
        for rows in self._batches(adata, indices, batch_size):
            posterior = self.module.encode(rows)
            means.append(posterior[f"mu_{which}"])
            variances.append(posterior[f"lv_{which}"].exp())
        # fetched once, so that no minibatch waits for the device
        mean, variance = torch.cat(means).cpu(), torch.cat(variances).cpu()
        return self._from_posterior(mean, variance, give_mean, return_dist, n_samples)

    @torch.inference_mode()
    def get_reconstruction(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        give_mean: bool = True,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Mean of p(x | z) at the mean of z (or at a sample), ``(n_obs, n_vars)``.

        On the scale of the registered matrix: with count likelihoods at the cell's own library
        size, with ``"zinb"`` the extra zeros included.
        """
        adata = self._validate_anndata(adata)
        out = []
        for rows in self._batches(adata, indices, batch_size):
            z = self._z(rows, give_mean)
            raw = self.module.decode(z, rows)
            out.append(self.module.likelihood.mean(raw, rows.library).cpu())
        return torch.cat(out).numpy()

    @torch.inference_mode()
    def decode_latent(
        self,
        z: np.ndarray,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Mean of p(x | z) at a z of your own for each cell, ``(n_obs, n_vars)``.

        Parameters
        ----------
        z
            Latent coordinates ``(n_obs, n_latent)``, one row a cell.
        adata, indices
            Cells that give condition, covariates and library size.

        Raises
        ------
        ValueError
            If ``z`` has another shape.
        """
        adata = self._validate_anndata(adata)
        n = len(self._check_indices(adata, indices))
        z = torch.as_tensor(np.asarray(z), dtype=torch.float32)
        width = self.module.decoder.linears[0].in_features
        if z.shape != (n, width):
            raise ValueError(f"z must have shape ({n}, {width}), but has {tuple(z.shape)}.")
        out, start = [], 0
        for rows in self._batches(adata, indices, batch_size):
            part = z[start : start + len(rows.x)].to(rows.x.device)
            raw = self.module.decode(part, rows)
            out.append(self.module.likelihood.mean(raw, rows.library).cpu())
            start += len(rows.x)
        return torch.cat(out).numpy()

    def _z(self, rows: Rows, use_mean: bool) -> torch.Tensor:
        posterior = self.module.encode(rows)
        mean, log_var = posterior["mu_z"], posterior.get("lv_z")
        # a deterministic encoder has no variance
        if use_mean or log_var is None:
            return mean
        return mean + (0.5 * log_var).exp() * torch.randn_like(mean)

    def _code(self, value: Any, known: list, argument: str) -> int | None:
        """Code of a category, None for None; an error that names it if unknown."""
        if value is None:
            return None
        names = [name_of(name) for name in known]
        if name_of(value) not in names:
            if not known:
                key = argument.removeprefix("transform_")
                raise ValueError(
                    f"{argument}={arguments.shown(value)}: the model knows no {key}s. Register one "
                    f"with setup_anndata({key}_key=...) and train again."
                )
            raise ValueError(
                f"{argument}={arguments.shown(value)} is not known. "
                + arguments.near_matches(name_of(value), names)
            )
        return names.index(name_of(value))

    def _synthetic_rows(
        self, condition: torch.Tensor, batch: str | None, library_size: float | None, typical: bool
    ) -> Rows:
        """Rows of generated cells with checked arguments; the module is set to eval."""
        self._check_if_trained()
        module = self.module.eval()
        like = module.likelihood
        checks.check_library_size(library_size, like.name, like.is_count)
        code = self._code(batch, self.batches, "batch")
        options = {"batch": code, "library_size": library_size, "typical": typical}
        return module.synthetic_rows(condition, **options)

    def annotate(
        self,
        adata: AnnData | None = None,
        *,
        key_added: str | None = None,
        reconstruction: bool = False,
        batch_size: int | None = None,
    ) -> None:
        """Write latents (and more, see the model) into the AnnData.

        Keys: ``obsm["X_<key>"]`` for one latent, ``obsm["X_<key>_<latent>"]`` and
        ``obsm["X_<key>_<latent>_sample"]`` for several; ``layers["<key>_reconstruction"]`` with
        ``reconstruction=True``; ``uns["<key>"]`` with the settings.

        Parameters
        ----------
        adata
            Cells to annotate; default the model's own.
        key_added
            The key; default the model's name in lower case (``"gmvae"`` for CGMVAE as well).
        reconstruction
            Write the reconstruction, too.

        Warns
        -----
        UserWarning
            If keys are replaced that another class of model or the user wrote.
        """
        check_key_added(key_added)
        adata = self._validate_anndata(adata)
        key = key_added or self._prefix
        self._annotations(adata, key, reconstruction, batch_size).write(adata)

    def _annotations(
        self, adata: AnnData, key: str, reconstruction: bool, batch_size: int | None
    ) -> Annotations:
        """What :meth:`annotate` writes; subclasses add to it."""
        found = Annotations(key, self._description())
        several = len(self._latents) > 1
        for which in self._latents:
            name = f"X_{key}_{which}" if several else f"X_{key}"
            found.obsm[name] = self.get_latent_representation(
                adata, which=which, batch_size=batch_size
            )
            if several:
                found.obsm[f"{name}_sample"] = self.get_latent_representation(
                    adata, which=which, give_mean=False, batch_size=batch_size
                )
        if reconstruction:
            found.layers[f"{key}_reconstruction"] = self.get_reconstruction(
                adata, batch_size=batch_size
            )
        return found
