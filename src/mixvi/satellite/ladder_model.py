"""The base of models with segmentation, codes and layers of latents between them and series."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from mixvi.core import arguments
from mixvi.core.data.annotations import Annotations, check_key_added
from mixvi.core.data.splitting import Split
from mixvi.core.model.evidence import ElboMixin
from mixvi.core.training.fitting import Fit
from mixvi.core.training.resuming import TrainingRun
from mixvi.satellite.generation import GenerationMixin
from mixvi.satellite.ladder import Layer, resolve_layers
from mixvi.satellite.ladder_module import LadderModule
from mixvi.satellite.model import Segmenter
from mixvi.satellite.residuals import OTHER_GAPS
from mixvi.satellite.setup import dates, label_maps, observed_values, read_series
from mixvi.satellite.views import make_augmentation

# tiles by which the first evidence is scaled
_N_SPREAD = 16
# of each network, unless told how many epochs
_UPDATES = 1000
# tiles and draws by which filled gaps are calibrated
_N_CALIBRATION = 256
_CALIBRATION_DRAWS = 4


class LadderModel(GenerationMixin, ElboMixin, Segmenter):
    """Base of the generative models of series. Subclasses build ``self.module``."""

    module: LadderModule
    # share of labelled tiles in a minibatch, where there are others, too
    _labelled_fraction: float
    # family of the values
    _likelihood = "gaussian"

    def _table(self, layers: str | Sequence[dict], width: float) -> tuple[Layer, ...]:
        """The layers, which the tiles' height and width must suit."""
        if layers == "auto":
            layers = "codes" if self.shape[0] > 1 else "light"
        table = resolve_layers(layers, width)
        self._check_size(*self.shape[2:], max(layer.scale for layer in table))
        return table

    def _settled_norm(self, layers: str | Sequence[dict], norm: str | None) -> str:
        if norm is None:
            # what colour an image has as a whole tells its code; the thesis's networks had no norm
            return "none" if self.shape[0] > 1 or layers == "thesis" else "group"
        return norm

    @staticmethod
    def _check_size(height: int, width: int, scale: int) -> None:
        if height % scale or width % scale:
            raise ValueError(
                f"Tiles are {height} x {width}, but the layers have maps that are {scale} times "
                f"smaller: height and width must be multiples of {scale}. Tile the scene anew, or "
                "choose other layers."
            )

    def _checked_ladder(
        self,
        n_codes: tuple[int, int, int],
        other_gaps: float | None,
        variance: str,
        activation: str,
        norm: str,
        labelled_fraction: float,
        augmentation: dict | None,
    ) -> dict:
        """Options of the module that all models have; raise ValueError if one is unusable.

        ``n_codes`` are the sizes of the codes of tile, dates and pixels.
        """
        n_code, n_date_code, n_place_code = n_codes
        arguments.check_positive("n_code", n_code)
        arguments.check_count("n_date_code", n_date_code)
        arguments.check_count("n_place_code", n_place_code)
        if other_gaps is None:
            other_gaps = OTHER_GAPS if self.shape[0] > 1 else 0.0
        arguments.check_rate("other_gaps", other_gaps)
        arguments.check_choice("variance", variance, ("band", "pixel"))
        arguments.check_rate("labelled_fraction", labelled_fraction)
        self._labelled_fraction = labelled_fraction
        return {
            "n_code": n_code,
            "n_date_code": n_date_code,
            "n_place_code": n_place_code,
            "other_gaps": other_gaps,
            "variance": variance,
            "activation": activation,
            "norm": norm,
            "augmentation": make_augmentation(augmentation, self.shape[0]),
        }

    def _begin(self, module: LadderModule, init_locals: dict, summary: str) -> None:
        """Take the module, and what it knows of the training tiles."""
        self._finish(module, init_locals, summary)
        self._standardise_by(self.adata)
        if self.adata is not None:
            days = np.nan_to_num(dates(self.adata, self._setup_args)[0])
            module.usual_dates.copy_(torch.as_tensor(days, dtype=torch.float32))

    def _check_registered(self, adata: AnnData, is_known: bool) -> None:
        super()._check_registered(adata, is_known)
        if not is_known:
            shape = read_series(adata, self._setup_args).shape
            self._check_size(*shape[3:], max(layer.scale for layer in self.module.table))

    def _check_data(self, adata: AnnData) -> None:
        """Raise ValueError if an observed value is outside the domain of the likelihood."""
        if self._likelihood == "gaussian":
            return
        series = read_series(adata, self._setup_args)
        values = series[np.broadcast_to(observed_values(adata, self._setup_args), series.shape)]
        if values.min() < 0 or (self._likelihood == "bernoulli" and values.max() > 1):
            domain = "in [0, 1]" if self._likelihood == "bernoulli" else "of at least 0"
            raise ValueError(
                f"likelihood={self._likelihood!r} is for values {domain}, but the series have "
                f"values from {values.min():.4g} to {values.max():.4g}."
            )

    @property
    def _by_date(self) -> bool:
        return self.label_mode == "date"

    def _labelled_tiles(self) -> np.ndarray:
        """Whether a tile has a labelled pixel."""
        if not self.classes:
            return np.zeros(self.adata.n_obs, dtype=bool)
        maps = label_maps(self.adata, self._setup_args, self.label_mode)
        return (maps >= 0).reshape(len(maps), -1).any(1)

    def _label_shares(self, fit: Fit) -> dict:
        """``labelled`` and ``labelled_fraction`` of minibatches, if tiles are not alike."""
        labelled = self._labelled_tiles()
        of_training = labelled[fit.split.train]
        if of_training.all() or not of_training.any() or fit.minibatches["batch_size"] < 2:
            return {}
        return {"labelled": labelled, "labelled_fraction": self._labelled_fraction}

    def _fit(self, fit: Fit, run: TrainingRun | None) -> Split:
        self._prepare(fit.split.train)
        if not self.is_trained_ and self.shape[0] > 1:
            rows = fit.split.train[:_N_SPREAD]
            self.module.spread(next(self._inputs(self.adata, rows, _N_SPREAD)))
        fit = replace(fit, minibatches=fit.minibatches | self._label_shares(fit))
        split = super()._fit(fit, run)
        if self.shape[0] > 1 and self.module.is_standardised:
            rows = split.train[:_N_CALIBRATION]
            batches = self._inputs(self.adata, rows, fit.minibatches["batch_size"])
            self.module.calibrate_gaps(batches, OTHER_GAPS, _CALIBRATION_DRAWS)
        return split

    def _default_lr(self) -> float | dict[str, float]:
        return 3e-3

    def _default_epochs(self, n_minibatches: int) -> int:
        return math.ceil(_UPDATES / n_minibatches)

    def _settled(self, **settings) -> Fit:
        fit = super()._settled(**settings)
        given = settings["plan_kwargs"] or {}
        falling = {"lr_decay": 1 / 3, "decay_epochs": math.ceil(fit.max_epochs / 3)}
        return replace(fit, plan=fit.plan | falling | {k: given[k] for k in falling if k in given})

    def _prepare(self, rows: np.ndarray) -> None:
        """Give the module what it needs of the training tiles beside minibatches."""

    def _over_views(self, *args) -> Iterator[Tensor]:
        self._check_has_classes()
        return super()._over_views(*args)

    def _check_has_classes(self) -> None:
        if not self.classes:
            raise ValueError(
                "The model knows no classes: it was set up without labels. Pass labels_key to "
                "setup_anndata to have maps."
            )

    @torch.inference_mode()
    def get_global_code(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        by_date: bool = False,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Means of q(l | x), what is said of a tile as a whole; of bits their probabilities.

        Parameters
        ----------
        by_date
            The codes of single dates instead.

        Returns
        -------
        ``(n_obs, n_code)``, or ``(n_obs, T, n_date_code)``.

        Raises
        ------
        ValueError
            If there are no codes of dates.
        """
        if by_date and not self.module.n_date_code:
            raise ValueError("by_date=True, but the model has no codes of single dates.")
        adata = self._validate_anndata(adata)
        name = "date_code" if by_date else "code"
        parts = [
            self.module.evidence(series)[name].mean.cpu()
            for series in self._batches(adata, indices, batch_size)
        ]
        codes = torch.cat(parts).numpy()
        return codes.swapaxes(1, 2) if by_date else codes

    @torch.inference_mode()
    def get_hidden(
        self,
        layer: int,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_samples: int = 1,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Means of q(z_t | x, what was drawn before), maps of a layer between code and series.

        Parameters
        ----------
        layer
            Its number t, from 1, next to the code.
        n_samples
            Draws of what comes before, over which means are averaged.

        Returns
        -------
        ``(n_obs, T, channels, H / scale, W / scale)``; of bits, probabilities.

        Raises
        ------
        ValueError
            If there is no such layer; between code and series of flat models there is none.
        """
        arguments.check_positive("n_samples", n_samples)
        arguments.check_positive("layer", layer)
        n_layers = self.module.n_latent_layers
        if layer > n_layers:
            known = f"from 1 to {n_layers}" if n_layers else "none: its maps are not drawn"
            raise ValueError(f"layer={layer!r}, but layers of latents are {known}.")
        adata = self._validate_anndata(adata)
        parts = []
        for series in self._batches(adata, indices, batch_size):
            evidence = self.module.evidence(series)
            paths = [self.module.posterior(series, evidence) for _ in range(n_samples)]
            mean = sum(path.q[f"z{layer}"].mean for path in paths) / n_samples
            parts.append(mean.transpose(1, 2).cpu())
        return torch.cat(parts).numpy()

    def _check_has_elbo(self) -> None:
        pass

    def get_elbo(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        return_mean: bool = True,
        return_terms: bool = False,
        batch_size: int | None = None,
    ) -> float | torch.Tensor | pd.Series | pd.DataFrame:
        """The evidence lower bound of observed values in nats, at one draw; higher is better.

        Of standardised bands, segmentations being latent, whatever the model was trained by.

        Parameters
        ----------
        return_mean
            The mean over tiles, or the value of each.
        return_terms
            Instead, the terms of minus the ELBO and their sum ``total`` (lower is better): ``R``,
            the observed values' negative log-likelihood, and the KL divergence of each latent.

        Returns
        -------
        A float, or a tensor ``(n_obs,)``; of terms a Series, or a DataFrame by the tiles' names.
        """
        return self._elbo(
            self.module.elbo_terms,
            adata,
            indices,
            return_mean=return_mean,
            return_terms=return_terms,
            batch_size=batch_size,
        )

    def get_marginal_ll(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_mc_samples: int = 100,
        return_mean: bool = True,
        batch_size: int | None = None,
    ) -> float | torch.Tensor:
        """Log p(x) of observed values in nats, by importance sampling (Burda et al. 2016).

        Parameters
        ----------
        n_mc_samples
            Draws a tile; more make the estimate less of an underestimate.
        return_mean
            The mean over tiles, or the value of each.

        Returns
        -------
        A float, or a tensor ``(n_obs,)``; higher is better.
        """
        return self._marginal_ll(
            lambda series: partial(self.module.log_weight, series, self.module.evidence(series)),
            adata,
            indices,
            n_mc_samples=n_mc_samples,
            return_mean=return_mean,
            batch_size=batch_size,
        )

    def annotate(
        self,
        adata: AnnData | None = None,
        *,
        key_added: str | None = None,
        imputed: bool = False,
        batch_size: int | None = None,
    ) -> None:
        """Write codes, maps and, on demand, filled series into the AnnData.

        Keys, with ``key_added`` or the name of the model in small letters for ``<model>``:
        ``obsm["X_<model>"]``, the codes of :meth:`get_latent_representation`; of a model with
        classes ``obsm["<model>_labels"]``, ``obsm["<model>_probabilities"]`` and
        ``obsm["<model>_entropy"]``; with ``imputed=True`` ``obsm["<model>_imputed"]`` and
        ``obsm["<model>_imputed_sd"]``, as :meth:`impute` returns them; ``uns["<model>"]``.

        Parameters
        ----------
        key_added
            What keys are named for.
        imputed
            Write filled series, too.
        """
        check_key_added(key_added)
        adata = self._validate_anndata(adata)
        key = key_added or type(self).__name__.lower()
        found = Annotations(key, self._description())
        if self.classes:
            found = self._annotations(adata, key, batch_size)
        codes = self.get_latent_representation(adata, batch_size=batch_size)
        found.obsm[f"X_{key}"] = codes
        if imputed:
            filled, sd = self.impute(adata, return_sd=True, batch_size=batch_size)
            found.obsm |= {f"{key}_imputed": filled, f"{key}_imputed_sd": sd}
        found.write(adata)
