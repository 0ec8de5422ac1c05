"""Verbs of generative models of series: reconstruction, filled gaps, series of a segmentation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from mixvi.core import arguments
from mixvi.core.training.threads import few_threads
from mixvi.satellite.dreams import settled_dream_maps, turned
from mixvi.satellite.ladder_module import LadderModule
from mixvi.satellite.ladder_path import moments
from mixvi.satellite.residuals import LEAST_DATES
from mixvi.satellite.series import Series
from mixvi.satellite.setup import label_maps, observed_values, read_series

LEVELS = ("all", "z0")
RESIDUALS = ("auto", "series", "trained")
_MAPS_AT_A_TIME = 32


class GenerationMixin:
    """``get_reconstruction``, ``impute``, ``get_refined_segmentation`` and ``generate``."""

    module: LadderModule

    @torch.inference_mode()
    def get_reconstruction(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        level: str = "all",
        n_samples: int = 1,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Series as the model sees them, in the shape and units of the registered series.

        Parameters
        ----------
        level
            ``"all"`` decodes draws of all latents given the series; ``"z0"`` keeps segmentation and
            code alone and draws the rest from the model (Hruška 2023, figure 4.3).
        n_samples
            Draws of the latents of which the mean is taken.

        Raises
        ------
        ValueError
            If ``level`` is unknown.
        """
        arguments.check_choice("level", level, LEVELS)
        arguments.check_positive("n_samples", n_samples)
        adata = self._validate_anndata(adata)
        parts = []
        for series in self._batches(adata, indices, batch_size):
            evidence = self.module.evidence(series)
            total = 0.0
            for _ in range(n_samples):
                path = self.module.posterior(series, evidence)
                if level == "z0":
                    path = self.module.ancestral(series, path.z.get("segmentation"), path.z)
                total = total + self.module.in_units(path.image.mean)
            parts.append((total / n_samples).cpu())
        return self._as_registered(adata, torch.cat(parts).numpy())

    @torch.inference_mode()
    def impute(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_samples: int = 16,
        iterated: bool = False,
        assume_filled: bool = False,
        use_labels: bool = False,
        residuals: str = "auto",
        return_sd: bool = False,
        return_draws: bool = False,
        batch_size: int | None = None,
    ) -> np.ndarray | tuple[np.ndarray, ...]:
        """Series with their gaps filled, in the shape and units of the registered series.

        Where a value is observed it is returned as it is. Elsewhere it is the mean over draws of
        the latents given what is observed; of series of several dates, and Gaussian values, what
        the model misses beside the gap is carried into it, see ``residuals``. Clouds hide what
        depends on nothing else in the model; snow does not, so that intervals under snow are not
        to be trusted.

        Parameters
        ----------
        n_samples
            Draws of the latents.
        iterated
            Take the second half of a chain of twice as many sweeps; each draws latents, then
            values.
        assume_filled
            In a chain, have the encoder take the values of the last sweep for observed.
        use_labels
            Keep the registered labels in the segmentation, where there are any.
        residuals
            ``"series"``: from neighbouring dates, other pixels of the date, the leading modes and
            the season, also from what values of the season are without the model, weighted as each
            series needs it where gaps of its other dates hide observed values; the standard
            deviations are scaled so that 90 % intervals hold 90 % of these. It takes four times as
            many draws, and the larger a tile, the more it tells. ``"trained"``: from
            neighbouring dates, by a share and a factor of deviations that were found in the same
            way when training ended (a first training that was broken off leaves 0 and 1).
            ``"auto"``: of each series from 8 dates on, otherwise and where too little is observed
            as trained.
        return_sd
            Return standard deviations, too: of the decoder and between draws; zero where observed.
        return_draws
            Return draws of the series, too, ``(n_samples, ...)``, for quantiles and multiple
            imputation.

        Returns
        -------
        Filled series; with options a tuple (series, sd, draws) of what was asked for.

        Raises
        ------
        ValueError
            If an option needs another.
        """
        arguments.check_positive("n_samples", n_samples)
        arguments.check_choice("residuals", residuals, RESIDUALS)
        if assume_filled and not iterated:
            raise ValueError("assume_filled=True is for a chain. Pass iterated=True as well.")
        adata = self._validate_anndata(adata)
        options = {"iterated": iterated, "assume_filled": assume_filled, "use_labels": use_labels}
        means, sds, draws = [], [], []
        for series in self._batches(adata, indices, batch_size):
            paths = list(self.module.fillings(series, n_samples, **options))
            mean, variance = moments(paths)
            of_series = residuals == "series" or (
                residuals == "auto" and series.x.shape[1] >= LEAST_DATES
            )
            carried, factor = self.module.carried_into_gaps(
                mean, series, n_samples if of_series else 0, **options
            )
            filled = mean + carried
            means.append(self.module.in_units(filled).cpu())
            sds.append(factor.transpose(1, 2).cpu() * self.module.sd_in_units(variance).cpu())
            if return_draws:
                drawn = [path.image.sample() for path in paths]
                if self.module.is_standardised:
                    drawn = [filled + factor * (x - mean) for x in drawn]
                draws.append(torch.stack([self.module.in_units(x).cpu() for x in drawn]))
        rows = self._check_indices(adata, indices)
        original = read_series(adata, self._setup_args)[rows]
        observed = np.broadcast_to(observed_values(adata, self._setup_args)[rows], original.shape)

        def kept(filled: Tensor) -> np.ndarray:
            # digital numbers are whole, what is imputed is not
            dtype = np.result_type(original.dtype, np.float32)
            whole = np.where(observed, original, filled.numpy()).astype(dtype)
            return self._as_registered(adata, whole)

        found = [kept(torch.cat(means))]
        if return_sd:
            sd = np.where(observed, 0.0, torch.cat(sds).numpy()).astype(np.float32)
            found.append(self._as_registered(adata, sd))
        if return_draws:
            found.append(np.stack([kept(of_draw) for of_draw in torch.cat(draws, dim=1)]))
        return tuple(found) if len(found) > 1 else found[0]

    @torch.inference_mode()
    def get_refined_segmentation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_sweeps: int = 20,
        use_labels: bool = False,
        soft: bool = False,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Maps of a chain that fills the gaps and segments what it filled in turn.

        Each of twice ``n_sweeps`` sweeps draws latents, then values where none are observed, which
        the encoder takes for observed in the next; probabilities are averaged over the second half.

        Parameters
        ----------
        n_sweeps
            Sweeps that count.
        use_labels
            Keep the registered labels in the segmentation, where there are any.
        soft
            Probabilities instead of the most probable class.

        Returns
        -------
        As ``predict``: ``(n_obs, H, W)``, ``(n_obs, T, H, W)`` of a map a date; with ``soft``
        ``(n_obs, L, H, W)`` or ``(n_obs, T, L, H, W)``, whose temperature is 1.

        Raises
        ------
        ValueError
            If the model knows no classes.
        """
        arguments.check_positive("n_sweeps", n_sweeps)
        self._check_has_classes()
        adata = self._validate_anndata(adata)
        options = {"iterated": True, "assume_filled": True, "use_labels": use_labels}
        parts = []
        for series in self._batches(adata, indices, batch_size):
            paths = self.module.fillings(series, n_sweeps, **options)
            p = sum(path.q["segmentation"].mean for path in paths) / n_sweeps
            if use_labels:
                p = self.module.annotated(p, series, draw=False)
            parts.append(p.transpose(1, 2).cpu() if self._by_date else p[:, :, 0].cpu())
        probabilities = torch.cat(parts).numpy()
        return probabilities if soft else probabilities.argmax(-3)

    @torch.inference_mode()
    def generate(
        self,
        segmentation: np.ndarray | None = None,
        *,
        n: int | None = None,
        style: AnnData | None = None,
        time: np.ndarray | None = None,
        give_mean: bool = True,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """New series of given segmentations, ``(n, T, C, H, W)`` in units of the registered series.

        Parameters
        ----------
        segmentation
            Classes ``(n, H, W)``, or ``(n, T, H, W)`` for a model of a map a date; every pixel has
            one.
        n
            How many series are generated without: of draws of the learnt distribution of maps
            (``dream_maps="learned"``), else of maps drawn from those of the registered tiles that
            have a class at every pixel, mirrored and turned at random; of none by a model that
            knows no classes.
        style
            AnnData whose tiles give the codes of tile and dates, one tile for all or one each;
            default codes from the prior, from which those of pixels always are.
        time
            Dates ``(T,)``, as datetime64 or days since 1970-01-01; default those of ``style``, or
            of the first training tile.
        give_mean
            Means of the values given the latents, which look best, or draws.

        Raises
        ------
        ValueError
            If neither a segmentation nor ``n`` is given, or both, a segmentation has another shape
            or a pixel without a class, maps are not learnt and no registered tile has a class at
            every pixel, dates are none, or ``style`` has another number of tiles.
        """
        self._check_if_trained()
        maps = self._checked_segmentation(segmentation, n)
        n = n if maps is None else len(maps)
        codes, days = None, self.module.usual_dates.cpu()
        if style is not None:
            codes, days = self._codes_of(style, n, batch_size)
        if time is not None:
            days = torch.as_tensor(_checked_days(time), dtype=torch.float32)
        dated = [z.shape[2] for z in (codes or {}).values() if z.ndim == 3]
        dated += [maps.shape[1]] if maps is not None and self._by_date else []
        if any(n_dates != days.shape[-1] for n_dates in dated):
            raise ValueError(
                f"time has {days.shape[-1]} dates, but segmentation or style have {dated[0]}."
            )
        days = days.expand(n, -1)
        size = self.shape[2:] if maps is None else maps.shape[-2:]
        batch_size = _MAPS_AT_A_TIME if batch_size is None else batch_size
        arguments.check_positive("batch_size", batch_size)
        device = self.module.device
        self.module.eval()
        parts = []
        with few_threads():
            for rows in torch.arange(n).split(batch_size):
                like = _of_dates(days[rows].to(device), self.shape[1], size)
                one_hot = None if maps is None else self.module.one_hot(maps[rows].to(device))
                code = codes and {name: z[rows].to(device) for name, z in codes.items()}
                image = self.module.ancestral(like, one_hot, code).image
                x = image.mean if give_mean else image.sample()
                parts.append(self.module.in_units(x).cpu())
        return torch.cat(parts).numpy()

    def _checked_segmentation(self, segmentation: np.ndarray | None, n: int | None):
        if n is not None:
            arguments.check_positive("n", n)
        if not self.classes:
            if segmentation is not None or n is None:
                raise ValueError("The model knows no classes. Pass n, and no segmentation.")
            return None
        if (segmentation is None) == (n is None):
            raise ValueError("Pass a segmentation to generate from, or n to have some drawn.")
        if segmentation is None:
            return self._drawn_maps(n)
        maps = np.asarray(segmentation)
        n_axes = 4 if self._by_date else 3
        if maps.ndim != n_axes or maps.dtype.kind not in "iu":
            kind = "(n, T, H, W)" if self._by_date else "(n, H, W)"
            raise ValueError(
                f"segmentation must be whole numbers {kind}, but is {maps.dtype} of shape "
                f"{maps.shape}."
            )
        if len(maps) == 0:
            raise ValueError("segmentation has no map (n = 0).")
        if maps.min() < 0 or maps.max() >= len(self.classes):
            raise ValueError(
                f"segmentation must have a class from 0 to {len(self.classes) - 1} at every pixel, "
                f"but has values from {maps.min()} to {maps.max()}."
            )
        self._check_size(*maps.shape[-2:], max(layer.scale for layer in self.module.table))
        return torch.as_tensor(maps.astype(np.int64))

    def _drawn_maps(self, n: int) -> Tensor:
        """Of tiles that have a class at every pixel, ``(n, [T], H, W)``, as dreams start from."""
        if self.adata is None:
            raise ValueError(
                "The model was loaded without tiles, so that there are no maps to draw from: pass "
                "a segmentation."
            )
        maps = label_maps(self.adata, self._setup_args, self.label_mode)
        complete = settled_dream_maps("auto", maps)[1]
        if not len(complete):
            raise ValueError(
                "No registered tile has a class at every pixel, so that there are no maps to draw "
                "from: pass a segmentation, such as get_refined_segmentation() or predict()."
            )
        chosen = torch.randint(len(complete), (n,))
        return turned(torch.as_tensor(complete.astype(np.int64))[chosen])

    def _codes_of(
        self, style: AnnData, n: int, batch_size: int | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Draws of the codes given the tiles of ``style``, and the days of these."""
        style = self._validate_anndata(style)
        if style.n_obs not in (1, n):
            raise ValueError(f"style has {style.n_obs} tiles; one for all or {n} are needed.")
        # codes of pixels are of a place
        names = [name for name in self.module.top if name in ("code", "date_code")]
        drawn, days = {name: [] for name in names}, []
        for series in self._batches(style, None, batch_size):
            evidence = self.module.evidence(series)
            days.append(series.time.cpu())
            for name in names:
                drawn[name].append(evidence[name].sample().cpu())
        codes = {name: torch.cat(parts) for name, parts in drawn.items()}
        return {name: z.expand(n, *z.shape[1:]) for name, z in codes.items()}, torch.cat(days)

    def _as_registered(self, adata: AnnData, series: np.ndarray) -> np.ndarray:
        """Series ``(n, T, C, H, W)``, without the axis of dates if images were registered."""
        of_images = adata.obsm[self._setup_args["series_key"]].ndim == 4
        return series[:, 0] if of_images else series


def _checked_days(time: np.ndarray) -> np.ndarray:
    """Days since 1970-01-01 of dates ``(T,)``; raise ValueError if they are none."""
    days = np.asarray(time)
    if days.dtype.kind == "M":
        # an unknown date stays NaN
        days = np.where(np.isnat(days), np.nan, days.astype("datetime64[s]").astype(float) / 86_400)
    if days.ndim != 1 or not len(days) or days.dtype.kind not in "iuf" or np.isnan(days).any():
        raise ValueError(
            "time must be known dates (T,), as datetime64 or days since 1970-01-01, but is "
            f"{arguments.shown(time)}."
        )
    return days


def _of_dates(days: Tensor, n_bands: int, size: tuple[int, int]) -> Series:
    """Series of which nothing but the days ``(n, T)`` is known."""
    x = days.new_zeros(*days.shape, n_bands, *size)
    nothing = torch.zeros_like(x, dtype=torch.bool)
    return Series(x, nothing, torch.ones_like(days, dtype=torch.bool), days)
