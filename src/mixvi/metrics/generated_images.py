"""How good generated images are, by features of a network: Inception score, FID and KID."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mixvi.core.arguments import check_positive
from mixvi.core.data.images import signed_images
from mixvi.metrics.classifier import ImageClassifier
from mixvi.metrics.image_features import (
    batches,
    feature_network,
    of_torchmetrics,
    real_and_generated,
)


class InceptionScore(NamedTuple):
    """Mean over splits and their standard deviation (NaN of one split)."""

    mean: float
    std: float


def inception_score(
    images,
    classifier: ImageClassifier | nn.Module | Callable[[Tensor], Tensor] | str,
    splits: int = 10,
    *,
    pixel_range: tuple[float, float] | None = None,
    batch_size: int = 250,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> InceptionScore:
    """Inception score exp(E KL(p(y | x) ‖ p(y))) (Salimans et al. 2016), by torchmetrics.

    It lies between 1 and the number of classes: high where each image is sure of its class and all
    classes are there.

    Parameters
    ----------
    images
        As for :func:`fid`.
    classifier
        A trained :class:`ImageClassifier`; any module or function from images ``(B, C, H, W)`` in
        [-1, 1] to logits ``(B, n_classes)``; or ``"inception"`` as for :func:`fid`.
    splits
        Into how many parts of one size the images are divided at random; of n images
        ``n % splits`` are left out.
    pixel_range
        As for :func:`fid`.
    batch_size
        Images at a time.
    seed
        Of the division.
    device
        As for :func:`fid`.

    Raises
    ------
    ImportError
        If torchmetrics is absent, or torch-fidelity for ``"inception"``.
    FileNotFoundError
        If the weights for ``"inception"`` are neither here nor to be downloaded.
    ValueError
        As :func:`fid`; also if there are fewer images than splits.
    """
    check_positive("splits", splits)
    check_positive("batch_size", batch_size)
    x = signed_images(images, pixel_range=pixel_range)
    if len(x) < splits:
        raise ValueError(f"{len(x)} images cannot be divided into splits={splits}.")
    kept = np.random.default_rng(seed).permutation(len(x))[: len(x) - len(x) % splits]
    network = feature_network(classifier, "classifier", {"images": x}, device)
    # the metric warns that it keeps all logits, torch that one split has no standard deviation
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), network.evaluating():
        warnings.filterwarnings("ignore", "Metric `InceptionScore` will save all extracted")
        warnings.filterwarnings("ignore", r"std\(\): degrees of freedom")
        metric_class = of_torchmetrics("inception").InceptionScore
        metric = metric_class(feature=network, splits=splits).to(network.device)
        for rows in batches(kept, batch_size):
            metric.update(torch.from_numpy(x[rows]).to(network.device))
        # of the CPU, where the metric draws; torch.manual_seed would reach GPUs, too
        torch.default_generator.manual_seed(seed)
        mean, std = metric.compute()
    return InceptionScore(float(mean), float(std))


def fid(
    real,
    generated,
    features: ImageClassifier | nn.Module | Callable[[Tensor], Tensor] | str,
    *,
    pixel_range: tuple[float, float] | None = None,
    batch_size: int = 250,
    device: str | torch.device | None = None,
) -> float:
    """Fréchet distance of Gaussians fitted to features (Heusel et al. 2017), by torchmetrics.

    ‖m₁ − m₂‖² + Tr(S₁ + S₂ − 2 (S₁ S₂)^½) of means and covariances, in double precision; 0 for
    equal ones. It falls with the number of images: compare models at the same numbers.

    Parameters
    ----------
    real, generated
        Images ``(n, C, H, W)`` and ``(m, C, H, W)``: arrays or tensors, floats or bytes
        (uint8, 0 to 255), or AnnData with them in ``obsm["image"]``, or in ``X`` with
        ``uns["image_shape"]``. The thesis takes the test split as real.
    features
        A trained :class:`ImageClassifier`, whose embedding before the last layer counts; any
        module or function from images ``(B, C, H, W)`` in [-1, 1] to features ``(B, F)``; or
        ``"inception"``: the standard network, whose weights torch-fidelity downloads (images are
        resized to 299 x 299, three channels).
    pixel_range
        Smallest and largest value that floats may have; networks see them as -1 and 1. ``None``:
        (-1, 1) if some are below -0.5, (0, 1) if none are negative, (0, 255) beside bytes; floats
        of both sides are on one range. Bytes have their own.
    batch_size
        Images at a time.
    device
        Where it is computed; a module moves there. Default: where the module is, or for
        ``"inception"`` a GPU if there is one.

    Returns
    -------
    The distance; what rounding makes negative is 0.

    Raises
    ------
    ImportError
        If torchmetrics is absent, or torch-fidelity for ``"inception"``.
    FileNotFoundError
        If the weights for ``"inception"`` are neither here nor to be downloaded.
    ValueError
        If images are not ``(n, C, H, W)``, out of range or on one that cannot be told, of different
        shapes or fewer than two, or if the network does not take them or returns something else
        than finite rows.
    """
    check_positive("batch_size", batch_size)
    sides = real_and_generated(real, generated, pixel_range)
    network = feature_network(features, "features", sides, device)
    for name, x in sides.items():
        if len(x) <= network.num_features:
            warnings.warn(
                f"{name} has {len(x)} images for {network.num_features} features: their covariance "
                "is singular and the distance too large. Take more images than features.",
                stacklevel=2,
            )
    metric = of_torchmetrics("fid").FrechetInceptionDistance(feature=network).to(network.device)
    with network.evaluating():
        for name, x in sides.items():
            for rows in batches(np.arange(len(x)), batch_size):
                images = torch.from_numpy(x[rows]).to(network.device)
                metric.update(images, real=name == "real")
    return max(0.0, float(metric.compute()))


class KID(NamedTuple):
    """Mean over subsets and their standard deviation."""

    mean: float
    std: float


def kid(
    real,
    generated,
    features: ImageClassifier | nn.Module | Callable[[Tensor], Tensor] | str,
    n_subsets: int = 100,
    subset_size: int = 1000,
    *,
    pixel_range: tuple[float, float] | None = None,
    batch_size: int = 250,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> KID:
    """Kernel inception distance (Bińkowski et al. 2018), by torchmetrics.

    The squared MMD of features under the kernel (x · y / F + 1)³. Its estimate has no bias: it is 0
    on average for images of one distribution, whatever their number, and may fall below.

    Parameters
    ----------
    real, generated, features, pixel_range, batch_size, device
        As for :func:`fid`.
    n_subsets, subset_size
        How many subsets of each side are compared, and of how many images.
    seed
        Of the subsets.

    Raises
    ------
    ImportError, FileNotFoundError
        As :func:`fid`.
    ValueError
        As :func:`fid`; also if a side has fewer images than a subset.
    """
    check_positive("n_subsets", n_subsets)
    check_positive("subset_size", subset_size)
    check_positive("batch_size", batch_size)
    sides = real_and_generated(real, generated, pixel_range)
    for name, x in sides.items():
        if not 2 <= subset_size <= len(x):
            raise ValueError(
                f"subset_size={subset_size} must be from 2 to {len(x)}, the number of {name} "
                "images."
            )
    network = feature_network(features, "features", sides, device)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), network.evaluating():
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all")
        metric_class = of_torchmetrics("kid").KernelInceptionDistance
        metric = metric_class(feature=network, subsets=n_subsets, subset_size=subset_size)
        metric.to(network.device)
        for name, x in sides.items():
            for rows in batches(np.arange(len(x)), batch_size):
                metric.update(torch.from_numpy(x[rows]).to(network.device), real=name == "real")
        torch.default_generator.manual_seed(seed)
        mean, std = metric.compute()
    return KID(float(mean), float(std))
