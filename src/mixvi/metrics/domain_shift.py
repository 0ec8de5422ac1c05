"""What a trained model of images makes of images that are unlike those it has seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mixvi.core.arguments import check_count, check_share
from mixvi.core.data.images import image_array


def flipped_pixels(images, share: float, *, seed: int = 0) -> np.ndarray:
    """Images of which each pixel is turned to the other end of its range with some probability.

    Parameters
    ----------
    images
        ``(n, C, H, W)``, or an AnnData with images.
    share
        Probability of a pixel; Mushom 2020 has 0.001, 0.01 and 0.05.
    seed
        Of the choice.
    """
    check_share("share", share)
    check_count("seed", seed)
    x = image_array(images, "images")
    chosen = np.random.default_rng(seed).random(x.shape) < share
    return np.where(chosen, inverted(x), x)


def inverted(images) -> np.ndarray:
    """Images with black and white exchanged: each value ``low + high`` minus itself."""
    x = image_array(images, "images")
    low, high = (0, 255) if x.dtype == np.uint8 else (x.min(), x.max())
    return (low + high - x).astype(x.dtype)


def triangle(size: int = 64, *, width: int = 24, value: int = 255) -> np.ndarray:
    """One image ``(1, 1, size, size)`` of an upright triangle, a shape that dSprites has not."""
    rows, columns = np.mgrid[:size, :size]
    top, middle = (size - width) // 2, (size - 1) / 2
    inside = (rows >= top) & (rows < top + width)
    inside &= np.abs(columns - middle) <= (rows - top + 1) / 2
    return (inside * value).astype(np.uint8)[None, None]


def domain_shift(
    model: Any, images, shifted: Mapping[str, np.ndarray], *, threshold: float = 0.5
) -> pd.DataFrame:
    """How a trained model takes each kind of changed images, beside the images as they are.

    Parameters
    ----------
    model
        A trained model of images, such as :class:`mixvi.images.GenerativeInference`.
    images
        Images as they are, ``(n, C, H, W)`` on the model's scale, n > 1.
    shifted
        Changed images by name: the same number, in the same order.
    threshold
        Share of the range above which a pixel counts as white.

    Returns
    -------
    DataFrame by kind, ``"none"`` first: ``displacement``, mean distance of the code from that of
    the image as it is, by the root mean square distance of such codes from their mean; ``kl``, mean
    KL of the posterior, in nats; ``iou``, of the white pixels of the reconstruction and of the
    image as it is; ``invariance``, mean IoU between reconstructions of different images of a kind:
    near 1 where the output is the same whatever the input.

    Raises
    ------
    ValueError
        If there is one image, or another number of changed ones.
    """
    check_share("threshold", threshold)
    x = image_array(images, "images")
    if len(x) < 2:
        raise ValueError("One image has no other to be compared with: pass two or more.")
    kinds = {"none": x} | {name: image_array(v, name) for name, v in shifted.items()}
    for name, values in kinds.items():
        if values.shape != x.shape:
            raise ValueError(f"{name}: images have the shape {values.shape}, not {x.shape}.")
    low, high = model.pixel_range
    white = x > low + threshold * (high - low)
    codes, rows = None, {}
    for name, values in kinds.items():
        adata = _as_registered(model, values)
        mean, variance = model.get_latent_representation(adata, return_dist=True)
        if codes is None:
            codes = mean
            spread = np.sqrt(((codes - codes.mean(axis=0)) ** 2).sum(axis=1).mean())
        made = model.get_reconstruction(adata) > low + threshold * (high - low)
        kl = 0.5 * (variance + mean**2 - 1.0 - np.log(variance)).sum(axis=1)
        distance = np.sqrt(((mean - codes) ** 2).sum(axis=1)).mean()
        rows[name] = {
            "displacement": float(distance / spread) if spread else np.nan,
            "kl": float(kl.mean()),
            "iou": float(np.mean([_iou(a, b) for a, b in zip(made, white, strict=True)])),
            "invariance": _between(made),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _as_registered(model: Any, images: np.ndarray):
    """An AnnData with images where the model reads them."""
    from anndata import AnnData

    args = model.registry["setup_args"]
    if args["image_key"] is not None:
        return AnnData(obsm={args["image_key"]: images})
    flat = images.reshape(len(images), -1)
    return AnnData(flat, layers={args["layer"]: flat} if args["layer"] else None)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def _between(made: np.ndarray) -> float:
    # neighbours of a sorted grid would be alike: pairs at random, as many as images
    made = made[np.random.default_rng(0).permutation(len(made))]
    pairs = zip(made, np.roll(made, 1, axis=0), strict=True)
    return float(np.mean([_iou(a, b) for a, b in pairs]))
