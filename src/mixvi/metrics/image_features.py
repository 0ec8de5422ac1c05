"""Features of images by a network of any kind, as metrics of generated images take them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixvi.core.data.images import signed_sides
from mixvi.metrics.classifier import ImageClassifier

INCEPTION = "inception"
_LEAST_LOG_PROBABILITY = -500.0


def real_and_generated(
    real: Any, generated: Any, pixel_range: tuple[float, float] | None
) -> dict[str, np.ndarray]:
    """Both sides in [-1, 1]; raise ValueError unless they have one shape and two images each."""
    sides = signed_sides({"real": real, "generated": generated}, pixel_range)
    shapes = {name: x.shape[1:] for name, x in sides.items()}
    if shapes["real"] != shapes["generated"]:
        raise ValueError(
            f"real images are (channels, height, width) = {shapes['real']}, generated ones "
            f"{shapes['generated']}; both need the same shape."
        )
    if min(map(len, sides.values())) < 2:
        raise ValueError("real and generated need two images each at least.")
    return sides


class FeatureNetwork(nn.Module):
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

    def of(self, x: np.ndarray, batch_size: int) -> np.ndarray:
        """Rows ``(n, F)`` of images ``(n, C, H, W)`` in [-1, 1]."""
        with self.evaluating():
            parts = [
                self(torch.from_numpy(x[rows]).to(self.device)).cpu()
                for rows in batches(np.arange(len(x)), batch_size)
            ]
        return torch.cat(parts).numpy()

    def forward(self, images: Tensor) -> Tensor:
        """Rows ``(B, F)`` of images ``(B, C, H, W)``."""
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


def feature_network(
    given: Any, name: str, sides: dict[str, np.ndarray], device: str | torch.device | None
) -> FeatureNetwork:
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
    return FeatureNetwork(call, module, name, next(iter(sides.values()))[:2], torch.device(device))


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
    network = of_torchmetrics("fid").NoTrainInceptionV3
    try:
        return network("inception-v3-compat", [layer])
    except OSError as error:
        # the network's errors are OSErrors
        raise FileNotFoundError(
            f"The weights of {INCEPTION!r} are not on this machine and could not be downloaded "
            f"({error}). Put torch-fidelity's file into {torch.hub.get_dir()}/checkpoints, or use "
            "a network of your own: mixvi.metrics.train_image_classifier."
        ) from error


def batches(rows: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """The rows in parts of about one size, none larger than ``batch_size``."""
    return np.array_split(rows, math.ceil(len(rows) / batch_size))


def of_torchmetrics(part: str) -> Any:
    """A part of torchmetrics for images, which is an extra."""
    if find_spec("torchmetrics") is None:
        raise ImportError("This metric needs torchmetrics: pip install 'mixvi[images]'.")
    return import_module(f"torchmetrics.image.{part}")
