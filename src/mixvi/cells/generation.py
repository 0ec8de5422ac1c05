"""Generated cells of the mixture models: every component and condition from draws of w."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from mixvi.core import arguments
from mixvi.core.maths.mixture import reparameterise
from mixvi.core.model.counterfactual import predicted_adata
from mixvi.core.model.module import Rows


class GenerationMixin:
    """``sample`` of the mixture models."""

    @torch.inference_mode()
    def sample(
        self,
        n: int,
        *,
        components: str | Sequence[int] = "all",
        conditions: str | Sequence[str] = "all",
        batch: str | None = None,
        library_size: float | None = None,
        use_mean: bool = True,
    ) -> AnnData:
        """New cells: each of ``n`` draws of w in every component and condition.

        Parameters
        ----------
        n
            Number of draws of w.
        components
            ``"all"`` or a list of component numbers.
        conditions
            ``"all"`` or a list of conditions (conditional models).
        batch
            Batch of the cells; ``None``: the most frequent one of training.
        library_size
            Count likelihoods: library size (or size factor) of every cell. ``None``: as in the
            training cells of the batch, their median with ``use_mean``, else drawn anew for each.
        use_mean
            Component and decoder means, or draws of z and x. Nuisance covariates are those typical
            of the training cells.

        Returns
        -------
        AnnData with n x components x conditions rows, on the scale of the registered matrix (in
        ``X`` and its layer); ``obs``: ``w_index``, ``component``, ``label`` (if components have
        labels) and the registered condition, batch and covariates; ``obsm``: ``X_gmvae_z`` and
        ``X_gmvae_w``. The model's verbs take it.

        Raises
        ------
        ValueError
            For an unknown component, condition or batch, or an unusable library size.
        """
        arguments.check_positive("n", n)
        self._check_if_trained()
        module = self.module.eval()
        chosen = self._chosen_components(components)
        codes = self._chosen_conditions(conditions)
        device = module.device
        noise = torch.randn(n, module.n_latent_w, device=device)
        obs, zs, ws, xs = [], [], [], []
        for code in codes:
            condition = torch.full((n,), code, dtype=torch.long, device=device)
            mu, log_var = module.w_prior(condition)
            w = mu + (0.5 * log_var).exp() * noise
            means, log_vars = module.component_parameters(w, condition)
            z = means if use_mean else reparameterise(means, log_vars)
            # (n, K', Dz) to n * K' rows, w varying slowest
            z = z[:, chosen].reshape(-1, module.n_latent_z)
            of_rows = condition.repeat_interleave(len(chosen))
            rows = self._synthetic_rows(of_rows, batch, library_size, use_mean)
            zs.append(z)
            ws.append(w.repeat_interleave(len(chosen), dim=0))
            xs.append(self._decoded(z, rows, use_mean))
            frame = pd.DataFrame(
                {
                    "w_index": np.repeat(np.arange(n), len(chosen)),
                    "component": np.tile(chosen, n),
                }
            )
            obs.append(pd.concat([frame, self._registered_obs(rows)], axis=1))
        return self._generated(pd.concat(obs, ignore_index=True), zs, ws, xs)

    def _generated(
        self, obs: pd.DataFrame, zs: list[Tensor], ws: list[Tensor], xs: list[Tensor]
    ) -> AnnData:
        obs.index = pd.Index([f"generated_{i}" for i in range(len(obs))])
        if self.assignment_ is not None:
            obs["label"] = obs["component"].map(self.assignment_["mapping"]).astype("category")
        obs["component"] = obs["component"].astype(str).astype("category")
        return predicted_adata(
            torch.cat(xs).cpu().numpy(),
            obs,
            pd.DataFrame(index=self.var_names),
            obsm={
                f"X_{self._prefix}_z": torch.cat(zs).cpu().numpy(),
                f"X_{self._prefix}_w": torch.cat(ws).cpu().numpy(),
            },
            **self._note,
        )

    def _chosen_components(self, components: str | Sequence[int]) -> np.ndarray:
        if isinstance(components, str) and components == "all":
            return np.arange(self.n_components)
        chosen = [components] if isinstance(components, int | np.integer) else list(components)
        for j in chosen:
            if not isinstance(j, int | np.integer) or not 0 <= j < self.n_components:
                raise ValueError(
                    f"components has {arguments.shown(j)}, but components are numbered 0 to "
                    f"{self.n_components - 1}."
                )
        return np.asarray(chosen, dtype=int)

    def _chosen_conditions(self, conditions: str | Sequence[str]) -> list[int]:
        if not self.conditions:
            if conditions != "all":
                raise ValueError("This model has no conditions; leave out conditions=.")
            return [0]
        return self._condition_codes(conditions, "conditions")

    def _decoded(self, z: Tensor, rows: Rows, use_mean: bool) -> Tensor:
        likelihood = self.module.likelihood
        raw = self.module.decode(z, rows)
        if use_mean:
            return likelihood.mean(raw, rows.library)
        return likelihood.sample(raw, rows.library, rows.batch)
