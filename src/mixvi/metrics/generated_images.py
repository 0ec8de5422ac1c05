"""How good generated images are, by the features of a classifier: Inception score and FID."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mixvi.core.arguments import check_positive
from mixvi.core.data.images import signed_images, signed_sides
from mixvi.metrics.classifier import ImageClassifier

INCEPTION = "inception"
_LEAST_LOG_PROBABILITY = -500.0


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
    network = _feature_network(classifier, "classifier", {"images": x}, device)
    # the metric warns that it keeps all logits, torch that one split has no standard deviation
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), network.evaluating():
        warnings.filterwarnings("ignore", "Metric `InceptionScore` will save all extracted")
        warnings.filterwarnings("ignore", r"std\(\): degrees of freedom")
        metric_class = _torchmetrics("inception").InceptionScore
        metric = metric_class(feature=network, splits=splits).to(network.device)
        for rows in _batches(kept, batch_size):
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
    sides = signed_sides({"real": real, "generated": generated}, pixel_range)
    shapes = {name: x.shape[1:] for name, x in sides.items()}
    if shapes["real"] != shapes["generated"]:
        raise ValueError(
            f"real images are (channels, height, width) = {shapes['real']}, generated ones "
            f"{shapes['generated']}; both need the same shape."
        )
    if min(map(len, sides.values())) < 2:
        raise ValueError("real and generated need two images each at least.")
    network = _feature_network(features, "features", sides, device)
    for name, x in sides.items():
        if len(x) <= network.num_features:
            warnings.warn(
                f"{name} has {len(x)} images for {network.num_features} features: their covariance "
                "is singular and the distance too large. Take more images than features.",
                stacklevel=2,
            )
    metric = _torchmetrics("fid").FrechetInceptionDistance(feature=network).to(network.device)
    with network.evaluating():
        for name, x in sides.items():
            for rows in _batches(np.arange(len(x)), batch_size):
                images = torch.from_numpy(x[rows]).to(network.device)
                metric.update(images, real=name == "real")
    return max(0.0, float(metric.compute()))


class _Network(nn.Module):
    """A network as torchmetrics takes it: known width, double precision, rows checked.

    The argument ``name`` says what the rows are: ``"features"``, or a ``"classifier"``'s logits.
    """

    def __init__(
        self,
        call: Callable[[Tensor], Tensor],
        module: nn.Module | None,
        name: str,
        some_images: np.ndarray,
        device: torch.device,
    ):
        super().__init__()
        self._call, self._name, self.device = call, name, device
        # in a list, so that the user's module is no part of this one
        self._modules_given = [] if module is None else [module.to(device)]
        with self.evaluating():
            self.num_features = self(torch.from_numpy(some_images).to(device)).shape[1]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The module given in evaluation mode and without gradients; afterwards as it was."""
        parts = [part for module in self._modules_given for part in module.modules()]
        modes = [part.training for part in parts]
        for module in self._modules_given:
            module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for part, mode in zip(parts, modes, strict=True):
                part.training = mode

    def forward(self, images: Tensor) -> Tensor:
        # images (B, C, H, W) -> (B, F)
        rows = self._call(images)
        if not isinstance(rows, Tensor) or rows.ndim != 2 or len(rows) != len(images):
            found = tuple(rows.shape) if isinstance(rows, Tensor) else f"a {type(rows).__name__}"
            raise ValueError(
                f"{self._name} must return one row an image, ({len(images)}, n), but returned "
                f"{found}."
            )
        if not rows.isfinite().all():
            raise ValueError(f"{self._name} returned NaN or infinite values.")
        if self._name == "features":
            return rows.double()
        # the metric returns NaN where no image gives a class a probability that can be held
        return rows.double().log_softmax(dim=1).clamp_min(_LEAST_LOG_PROBABILITY)


def _feature_network(
    given: Any, name: str, sides: dict[str, np.ndarray], device: str | torch.device | None
) -> _Network:
    """The network given for the argument ``name``, which checked the images of all sides."""
    call, module = given, given if isinstance(given, nn.Module) else None
    if isinstance(given, ImageClassifier):
        for side, x in sides.items():
            given.check_images(x, side)
        call = given.features if name == "features" else given
    elif isinstance(given, str) and given == INCEPTION:
        module = _inception(name, sides)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")

        def call(images: Tensor) -> Tensor:
            return module(((images + 1) * 127.5).round().clamp(0, 255).byte())

    elif not callable(given):
        raise ValueError(
            f"{name} must be an ImageClassifier, a module, a function or {INCEPTION!r}, but is "
            f"{given!r}."
        )
    if device is None:
        weights = None if module is None else next(module.parameters(), None)
        device = "cpu" if weights is None else weights.device
    return _Network(call, module, name, next(iter(sides.values()))[:2], torch.device(device))


def _inception(name: str, sides: dict[str, np.ndarray]) -> nn.Module:
    """The standard network, from bytes to features (FID) or logits (IS)."""
    for side, x in sides.items():
        if x.shape[1] != 3:
            raise ValueError(
                f"{INCEPTION!r} takes images of three channels, but {side} have {x.shape[1]}. "
                "Repeat the channel of grey ones: np.repeat(images, 3, axis=1)."
            )
    if find_spec("torch_fidelity") is None:
        raise ImportError(
            f"{INCEPTION!r} needs torch-fidelity: pip install 'mixvi[inception]'. A network of "
            "your own does not: mixvi.metrics.train_image_classifier."
        )
    # the layers that FID and IS are defined on
    layer = "2048" if name == "features" else "logits_unbiased"
    network = _torchmetrics("fid").NoTrainInceptionV3
    try:
        return network("inception-v3-compat", [layer])
    except OSError as error:
        # the network's errors are OSErrors
        raise FileNotFoundError(
            f"The weights of {INCEPTION!r} are not on this machine and could not be downloaded "
            f"({error}). Put torch-fidelity's file into {torch.hub.get_dir()}/checkpoints, or use "
            "a network of your own: mixvi.metrics.train_image_classifier."
        ) from error


def _batches(rows: np.ndarray, batch_size: int) -> list[np.ndarray]:
    return np.array_split(rows, math.ceil(len(rows) / batch_size))


def _torchmetrics(part: str) -> Any:
    if find_spec("torchmetrics") is None:
        raise ImportError("IS and FID need torchmetrics: pip install 'mixvi[images]'.")
    return import_module(f"torchmetrics.image.{part}")
