"""The verbs of models of light curves that have an ELBO and decode by a Gaussian process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from torch import Tensor

from mixvi.core.arguments import check_choice, check_count, check_positive, shown
from mixvi.core.data.fields import name_of
from mixvi.core.data.splitting import Split
from mixvi.core.maths.mixture import reparameterise
from mixvi.core.model.evidence import ElboMixin
from mixvi.core.training.fitting import Fit
from mixvi.core.training.resuming import TrainingRun
from mixvi.lightcurves.class_distance import median_and_spread
from mixvi.lightcurves.curves import Curves
from mixvi.lightcurves.decoding import DecodingMixin
from mixvi.lightcurves.model import LightCurveModel, component_names
from mixvi.lightcurves.module import LCVaDEModule
from mixvi.lightcurves.setup import phases, requested_times

SCORES = ("class_distance", "ias", "neg_elbo", "latent_density", "combined")
_TERMS = ("R", "Z", "F", "Y", "H_y", "H_z")
# training curves that scores are weighed by
_MOST_WEIGHED = 5_000


class ElboCurveModel(ElboMixin, DecodingMixin, LightCurveModel):
    """Base of the models whose module is a :class:`mixvi.lightcurves.module.LCVaDEModule`."""

    module: LCVaDEModule

    def _check_has_elbo(self) -> None:
        """It always has."""

    def _class_probabilities(self, curves: Curves) -> Tensor:
        mu, _ = self.module.encode(curves)
        return self.module.class_log_probabilities(mu, curves).exp()

    def get_elbo(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        return_mean: bool = True,
        return_terms: bool = False,
        batch_size: int | None = None,
    ) -> float | torch.Tensor | pd.Series | pd.DataFrame:
        """The evidence lower bound of normalised magnitudes and features in nats.

        Constants are included, but for the entropy of q(f), which is one without end.

        Parameters
        ----------
        return_mean
            The mean over curves, or the value of each.
        return_terms
            Instead, the terms of minus the ELBO and their sum ``total`` (lower is better), by name:
            ``R``, minus the expected log-likelihood at one sample of z; ``Z``, ``F`` and ``Y``, the
            cross-entropies of z, f and y; ``H_y`` and ``H_z``, minus the entropies of q(y | z, f)
            and q(z | x) (Astorga 2021, eqs. 9.9 to 9.11).

        Returns
        -------
        A float, or a tensor ``(n_obs,)``; of terms a Series, or a DataFrame by the objects' names.
        """
        return self._elbo(
            self._elbo_terms,
            adata,
            indices,
            return_mean=return_mean,
            return_terms=return_terms,
            batch_size=batch_size,
        )

    def _elbo_terms(self, curves: Curves) -> dict[str, Tensor]:
        curves = self.module.seen(curves)
        mu, log_var = self.module.encode(curves)
        terms = self.module.terms(curves, mu, log_var, reparameterise(mu, log_var))
        return dict(zip(_TERMS, terms.values(), strict=True))

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        give_mean: bool = True,
        return_dist: bool = False,
        part: str = "all",
        batch_size: int | None = None,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Codes of the curves, mean of q(z | x, t), ``(n_obs, n_latent)``.

        Parameters
        ----------
        give_mean
            The mean, or a draw.
        return_dist
            Mean and variance instead.
        part
            ``"representation"``, what decides the induction points, ``"kernel"``, what decides the
            kernel, or ``"all"``.

        Raises
        ------
        ValueError
            If ``part`` is unknown.
        """
        check_choice("part", part, ("all", "representation", "kernel"))
        n = self.module.decoder.n_representation
        columns = {"all": slice(None), "representation": slice(n), "kernel": slice(n, None)}[part]

        def moments(curves: Curves) -> Tensor:
            mu, log_var = self.module.encode(curves)
            return torch.stack([mu[:, columns], log_var[:, columns].exp()], dim=1)

        found, _ = self._of_each(moments, adata, indices, batch_size)
        mean, variance = (torch.from_numpy(found[:, i]) for i in range(2))
        return self._from_posterior(mean, variance, give_mean, return_dist, 1)

    def get_anomaly_score(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        kind: str | None = None,
        include_features: bool = False,
        n_samples: int = 0,
        batch_size: int | None = None,
    ) -> pd.Series:
        """How strange each curve is to the model; higher is stranger.

        Parameters
        ----------
        kind
            ``"class_distance"``, log Mahalanobis distance to the nearest class, by the covariance
            of its training curves (Lee et al. 2018), in spreads of these curves about their median;
            of the mean of z, the expected log-likelihood of an observation, and the features.
            Curves without a label count for the class that is predicted.
            ``"ias"``, minus the information anomaly score: the KL divergences of q(z | x) to the
            components, weighted by q(y | z, f) at the mean of z; it has no term of the magnitudes,
            so that noisy curves are not strange for it (Astorga 2021, eq. 9.12).
            ``"neg_elbo"``, minus the ELBO at one sample of z. ``"latent_density"``, minus the log
            density of the mean of z under the prior. ``"combined"``, log IAS and log misfit of the
            magnitudes, each in spreads of the training curves about their median. ``None``:
            ``"class_distance"``, or ``"latent_density"`` of a model with a single Gaussian.
        include_features
            Of ``"ias"``: add minus the expected log density of the features, without which an
            unusual period alone is not strange.
        n_samples
            Of ``"ias"``: average q(y | z, f) over so many draws of z; 0: take it at the mean of z.

        Returns
        -------
        Series ``(n_obs,)``, by the objects' names.

        Raises
        ------
        ValueError
            If ``kind`` is unknown, or features or draws are asked for with another kind.
        """
        kind = kind or self._default_score
        check_choice("kind", kind, SCORES)
        if include_features and kind != "ias":
            raise ValueError(f"include_features is for kind='ias', but kind={kind!r}.")
        check_count("n_samples", n_samples)
        if n_samples and kind != "ias":
            raise ValueError(f"n_samples is for kind='ias', but kind={kind!r}.")
        module = self.module
        scores = {
            "class_distance": module.distance_score,
            "ias": lambda curves: module.information_score(curves, include_features, n_samples),
            "neg_elbo": lambda curves: sum(self._elbo_terms(curves).values()),
            "latent_density": module.density_score,
            "combined": module.combined_score,
        }
        values, names = self._of_each(scores[kind], adata, indices, batch_size)
        return pd.Series(values, index=names, name=kind)

    @property
    def _default_score(self) -> str:
        return "class_distance" if self.module.has_mixture else "latent_density"

    def _fit(self, fit: Fit, run: TrainingRun | None) -> Split:
        if fit.part != "training":
            return super()._fit(fit, run)
        try:
            split = super()._fit(fit, run)
        except (KeyboardInterrupt, FloatingPointError):
            # the model is that of the last complete epoch, and so must be what its scores are by
            self._weigh_scores(fit.split.train)
            raise
        self._weigh_scores(split.train)
        return split

    @torch.inference_mode()
    def _weigh_scores(self, rows: np.ndarray) -> None:
        """Keep median and spread of what :meth:`get_anomaly_score` combines, of training curves."""
        rows = rows[:: max(1, -(-len(rows) // _MOST_WEIGHED))]
        logs, codes, classes = [], [], []
        for curves in self._seen(rows):
            found = self.module.information_score(curves), self.module.misfit(curves)
            logs.append(torch.stack(found, dim=1).clamp_min(1e-6).log())
            codes.append(self.module.whole_code(curves))
            predicted = self._class_probabilities(curves).argmax(-1)
            classes.append(torch.where(curves.labels >= 0, curves.labels, predicted))
        found = (torch.cat(part).cpu().numpy() for part in (codes, classes))
        self.module.class_distance.fit(*found)
        middle, spread = median_and_spread(torch.cat(logs))
        self.module.score_moments.copy_(torch.stack([middle, spread], dim=1))

    def _seen(self, rows: np.ndarray) -> Iterator[Curves]:
        """Training curves of a model that may not be trained to its end."""
        for curves in self._inputs(self.adata, rows, None):
            yield self.module.seen(curves)

    def _cluster_code(self, cluster: object) -> int:
        names = self.components
        if name_of(cluster) not in names:
            known = ", ".join(map(repr, names))
            raise ValueError(f"cluster={shown(cluster)} is not one of the model's: {known}.")
        return names.index(name_of(cluster))

    @property
    def components(self) -> list[str]:
        """What components of the prior are called: the classes, further ones by number.

        Beside classes that are numbers these are ``component_<number>``.
        """
        n = self.module.prior.n_clusters
        return ["0"] if n == 1 else component_names(self.classes, n)

    @property
    def categories(self) -> list:
        """What :meth:`predict` tells apart: the labels, or components if there are more."""
        # labels keep their type, by which a prediction equals the label
        more = self.module.has_mixture and self.module.prior.n_clusters > len(self.classes)
        return self.components if more else self.classes

    @torch.inference_mode()
    def get_prior_parameters(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights ``(K,)``, means and standard deviations ``(K, n_latent)`` of p(z)."""
        self._check_if_trained()
        prior = self.module.prior
        return tuple(t.cpu().numpy() for t in (prior.log_phi.exp(), prior.mu.clone(), prior.sigma))

    @torch.inference_mode()
    def sample(
        self,
        n: int,
        *,
        cluster: object = None,
        times: Sequence[float] | None = None,
        noise: bool = True,
    ) -> AnnData:
        """New light curves: z of p(z | y), and mean, spread and period of p(f | y).

        Parameters
        ----------
        n
            Number of curves.
        cluster
            A component as in :attr:`components`; ``None``: drawn.
        times
            Times of the observations ``(T,)`` or ``(n, T)`` in the unit of the registered ones,
            from phase zero; of curves that are not folded, from 0 at the first to 1 at the last.
            ``None``: 100, evenly over one period.
        noise
            Whether magnitudes scatter by the decoded standard deviations, or are the means.

        Returns
        -------
        AnnData as the room's others: ``obsm["time"]``, ``obsm["magnitude"]``, ``obsm["error"]``
        (the decoded standard deviations) and ``obsm["valid"]``; ``obs["period"]`` and
        ``obs["cluster"]``. Without the feature ``log_period`` periods are 1; without ``mean`` and
        ``log_spread`` these are the average ones of training.

        Raises
        ------
        ValueError
            If there is no such component, or times have another shape or are not finite.
        """
        check_positive("n", n)
        self._check_if_trained()
        module = self.module
        module.eval()
        code = None if cluster is None else self._cluster_code(cluster)
        z, components = module.prior.draw(n, code)
        drawn = pd.DataFrame(module.draw_features(components).cpu().numpy(), columns=self.features)
        period = self._drawn(drawn, "log_period", np.ones(1))[:, 0]
        centre = self._drawn(drawn, "mean", module.centre_mean.cpu().numpy(), log=False)
        spread = self._drawn(drawn, "log_spread", module.spread_mean.cpu().numpy())
        if times is None:
            time = np.arange(100) / 100 * period[:, None]
        else:
            time = requested_times(times, n)
        start, length = np.zeros(n), period
        phase = phases(time, start, length, self._setup_args["fold"])
        phase = torch.as_tensor(phase, dtype=z.dtype, device=z.device)
        mean, variance = module.decode(z)(phase[:, None].expand(-1, self.n_bands, -1))
        sd = variance.sqrt().cpu().numpy() * spread[..., None]
        magnitude = mean.cpu().numpy() * spread[..., None] + centre[..., None]
        if noise:
            magnitude = magnitude + sd * torch.randn(sd.shape).numpy()
        time = np.repeat(time[:, None], self.n_bands, 1)
        arrays = {"time": time, "magnitude": magnitude, "error": sd, "valid": np.isfinite(time)}
        names = np.array(self.components)[components.cpu().numpy()]
        obs = {"period": period, "cluster": pd.Categorical(names, self.components)}
        bands = self._state(REGISTRY_KEYS.X_KEY).get("bands")
        return AnnData(
            obs=pd.DataFrame(obs, index=[f"sample_{i}" for i in range(n)]),
            obsm={name: self._as_stored(values) for name, values in arrays.items()},
            uns={"bands": bands} if bands else {},
        )

    def _drawn(
        self, drawn: pd.DataFrame, name: str, otherwise: np.ndarray, log: bool = True
    ) -> np.ndarray:
        """Values of a drawn feature, ``(n, 1)`` or ``(n, n_bands)``, or those of training."""
        columns = [c for c in drawn if c == name or c.removeprefix(f"{name}_").isdigit()]
        if not columns:
            return np.broadcast_to(otherwise, (len(drawn), len(otherwise)))
        values = drawn[columns].to_numpy(np.float64)
        return np.exp(values) if log else values
