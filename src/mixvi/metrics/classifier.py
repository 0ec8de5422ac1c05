"""A small classifier of images, trained on the data at hand: the feature network of IS and FID."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mixvi.core.arguments import check_positive
from mixvi.core.data.alignment import names_of
from mixvi.core.data.files import read_model, write_model
from mixvi.core.data.images import float_range, signed_images
from mixvi.metrics.pairs import of_each_cell

# how often the network halves height and width
_HALVINGS = 4


class ImageClassifier(nn.Module):
    """Residual network with the layers of the thesis's encoder (Astorga 2021, table 6.2).

    :func:`train_image_classifier` makes a trained one. IS and FID by it depend on these very
    weights: they rank models of one study, whose ``sha256`` belongs beside the numbers, and do not
    compare with those by another network.

    Parameters
    ----------
    image_shape
        ``(C, H, W)``; H and W are multiples of 16.
    classes
        Names or numbers of the classes, in the order of the logits.
    width
        Channels of the convolutions; the thesis has 128.

    Attributes
    ----------
    n_features
        Length of the features, ``width * H / 16 * W / 16``.
    held_out_accuracy
        On images that it was not trained on; None before training.
    settings
        Settings and numbers of images of the training; empty before.

    Raises
    ------
    ValueError
        If the shape is not three lengths with H and W multiples of 16, or there are fewer than two
        classes.
    """

    def __init__(self, image_shape: Sequence[int], classes: Sequence, width: int = 32):
        super().__init__()
        self.image_shape = tuple(int(length) for length in image_shape)
        self.classes = list(classes)
        self.width = width
        _check_shape(self.image_shape)
        check_positive("width", width)
        if len(self.classes) < 2:
            raise ValueError(f"A classifier needs two classes at least, but has {self.classes}.")
        channels, height, breadth = self.image_shape
        self.n_features = width * (height // 2**_HALVINGS) * (breadth // 2**_HALVINGS)
        self.held_out_accuracy: float | None = None
        self.settings: dict = {}
        self.body = nn.Sequential(
            _Residual(channels, width, first=True),
            _Residual(width, width),
            _Residual(width, width, halve=False),
            _Residual(width, width),
            _Residual(width, width),
            nn.Flatten(),
        )
        self.head = nn.Linear(self.n_features, len(self.classes))
        # a CPU convolves a third faster in this order
        self.to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> Tensor:
        """Embedding before the last layer, ``(B, n_features)``, of images ``(B, C, H, W)``."""
        return self.body(images.contiguous(memory_format=torch.channels_last))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, n_classes)`` of images ``(B, C, H, W)`` in [-1, 1]."""
        return self.head(self.features(images))

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights' names, types, shapes and bytes; the same after save and load."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            values = tensor.detach().cpu().contiguous().numpy()
            digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
            digest.update(values.tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def predict(
        self,
        images,
        soft: bool = False,
        *,
        pixel_range: tuple[float, float] | None = None,
        batch_size: int = 250,
    ) -> np.ndarray:
        """Class of each image ``(n,)``, or with ``soft`` the probabilities ``(n, n_classes)``.

        Parameters
        ----------
        images
            As for :func:`mixvi.metrics.fid`.
        soft
            Whether probabilities are returned.
        pixel_range
            Smallest and largest value that floats may have. ``None``: as in training, or as for
            :func:`mixvi.metrics.fid` if it was trained on bytes.
        batch_size
            Images at a time.

        Raises
        ------
        ValueError
            If the images are of another shape than those of training, or out of range.
        """
        pixel_range = pixel_range or self.settings.get("pixel_range")
        x = signed_images(images, pixel_range=pixel_range)
        self.check_images(x, "images")
        device = next(self.parameters()).device
        probabilities = torch.cat(
            [
                self(torch.from_numpy(x[i : i + batch_size]).to(device)).softmax(dim=1).cpu()
                for i in range(0, len(x), batch_size)
            ]
        ).numpy()
        return probabilities if soft else np.array(self.classes)[probabilities.argmax(axis=1)]

    def check_images(self, images: np.ndarray, name: str) -> None:
        """Raise ValueError unless images ``(n, C, H, W)`` have the shape of those of training."""
        if images.shape[1:] != self.image_shape:
            raise ValueError(
                f"{name} have the shape (channels, height, width) = {images.shape[1:]}, but the "
                f"classifier was trained on {self.image_shape}."
            )

    def save(self, directory: str | Path, overwrite: bool = False) -> None:
        """Write weights as tensors and all else as JSON.

        See :func:`mixvi.core.data.files.write_model`.

        Raises
        ------
        FileExistsError
            If the directory exists and ``overwrite`` is false.
        """
        record = {
            "class": type(self).__name__,
            "mixvi_version": version("mixvi"),
            "torch_version": str(torch.__version__),
            "init_params": {
                "image_shape": self.image_shape,
                "classes": self.classes,
                "width": self.width,
            },
            "settings": self.settings,
            "held_out_accuracy": self.held_out_accuracy,
            "sha256": self.sha256,
        }
        write_model(directory, record, self.state_dict(), overwrite)

    @classmethod
    def load(cls, directory: str | Path) -> ImageClassifier:
        """Read what :meth:`save` wrote; nothing in the directory is executed.

        Raises
        ------
        FileNotFoundError
            If there is none in the directory.
        ValueError
            If the files are damaged, of another class or format, or the weights are not those
            whose hash was saved.
        """
        record, weights = read_model(directory, cls.__name__)
        classifier = cls(**record["init_params"])
        classifier.load_state_dict(weights)
        classifier.settings = record["settings"]
        classifier.held_out_accuracy = record["held_out_accuracy"]
        if classifier.sha256 != record["sha256"]:
            raise ValueError(
                f"The weights in {directory} have the hash {classifier.sha256}, but "
                f"{record['sha256']} was saved with them; use an unchanged copy."
            )
        return classifier.eval()


def train_image_classifier(
    images,
    labels: Sequence,
    *,
    held_out: float | tuple = 0.1,
    pixel_range: tuple[float, float] | None = None,
    width: int = 32,
    max_epochs: int = 5,
    batch_size: int = 64,
    lr: float = 3e-3,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> ImageClassifier:
    """Train an :class:`ImageClassifier` with Adam and report its accuracy on images held out.

    The learning rate rises and falls once over the training (Smith and Topin 2019). With the same
    seed, images and number of threads a CPU gives the same weights.

    Parameters
    ----------
    images
        As for :func:`mixvi.metrics.fid`.
    labels
        Of each image, ``(n,)``.
    held_out
        Share of the images that is held out, drawn at random within each class; or images and
        labels that are.
    pixel_range
        As for :func:`mixvi.metrics.fid`.
    width
        Channels of the network; 128 is the thesis's, 32 is for a CPU.
    max_epochs, batch_size, lr
        Of the training; ``lr`` is the peak.
    seed
        Of the weights, the images held out and their order.
    device
        Where it is trained and stays; default a GPU if there is one.

    Returns
    -------
    The classifier in evaluation mode, with ``held_out_accuracy`` and ``settings``.

    Raises
    ------
    ValueError
        If images are out of range or of a shape that cannot be halved four times, labels do not
        fit, there are fewer than two classes, or nothing is left to train on or to hold out.
    """
    for name, value in (
        ("width", width),
        ("max_epochs", max_epochs),
        ("batch_size", batch_size),
    ):
        check_positive(name, value)
    check_positive("lr", lr, integer=False)
    sides = {"images": images}
    if isinstance(held_out, tuple):
        sides["held_out"] = held_out[0]
    pixel_range = float_range(sides, pixel_range)
    x = signed_images(images, "images", pixel_range)
    _check_shape(x.shape[1:])
    classes, y = np.unique(
        of_each_cell(labels, len(x), "labels", names_of(images)), return_inverse=True
    )
    generator = np.random.default_rng(seed)
    if isinstance(held_out, tuple):
        chosen = np.arange(len(x))
        test_x, test_labels = signed_images(held_out[0], "held_out", pixel_range), held_out[1]
    else:
        chosen, rest = _split(y, held_out, generator)
        test_x, test_labels = x[rest], classes[y[rest]]
    test_names = names_of(held_out[0]) if isinstance(held_out, tuple) else None
    test_labels = of_each_cell(test_labels, len(test_x), "labels of held_out", test_names)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        classifier = ImageClassifier(x.shape[1:], classes.tolist(), width).to(device)
    classifier.check_images(test_x, "held_out")
    _fit(classifier, x, y, chosen, max_epochs, batch_size, lr, generator)
    predicted = classifier.predict(test_x, pixel_range=(-1.0, 1.0))
    classifier.held_out_accuracy = float((predicted == test_labels).mean())
    classifier.settings = {
        "n_train": len(chosen),
        "n_held_out": len(test_x),
        "max_epochs": max_epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "pixel_range": pixel_range,
    }
    return classifier


class _Residual(nn.Module):
    """Two 3 x 3 convolutions, each after a ReLU, beside a shortcut; then halved."""

    def __init__(self, n_in: int, n_out: int, first: bool = False, halve: bool = True):
        super().__init__()
        self.first, self.halve = first, halve
        self.enter = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.leave = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.shortcut = nn.Conv2d(n_in, n_out, 1) if halve else None
        # without batch norm, torch's smaller weights learn slowly
        for convolution in (self.enter, self.leave):
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)

    def forward(self, x: Tensor) -> Tensor:
        # x (B, n_in, H, W)
        h = self.leave(functional.relu(self.enter(x if self.first else functional.relu(x))))
        if not self.halve:
            return x + h
        # a 1 x 1 convolution and the mean over pixels commute; this order is cheaper
        return functional.avg_pool2d(h, 2) + self.shortcut(functional.avg_pool2d(x, 2))


def _fit(
    classifier: ImageClassifier,
    x: np.ndarray,
    y: np.ndarray,
    chosen: np.ndarray,
    max_epochs: int,
    batch_size: int,
    lr: float,
    generator: np.random.Generator,
) -> None:
    device = next(classifier.parameters()).device
    optimizer = torch.optim.Adam(classifier.parameters(), lr=lr)
    n_batches = -(-len(chosen) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, max_epochs * n_batches)
    classifier.train()
    for _ in range(max_epochs):
        order = generator.permutation(chosen)
        for i in range(0, len(order), batch_size):
            rows = order[i : i + batch_size]
            logits = classifier(torch.from_numpy(x[rows]).to(device))
            loss = functional.cross_entropy(logits, torch.from_numpy(y[rows]).to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    classifier.eval()


def _split(
    y: np.ndarray, share: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out, of each class the same share."""
    if not 0 < share < 1:
        raise ValueError(f"held_out must be a share in (0, 1) or a pair, but is {share!r}.")
    held_out = [
        generator.permutation(rows)[: round(share * len(rows))]
        for rows in (np.flatnonzero(y == k) for k in range(y.max() + 1))
    ]
    held_out = np.concatenate(held_out)
    chosen = np.setdiff1d(np.arange(len(y)), held_out)
    if not len(held_out) or not len(chosen):
        raise ValueError(
            f"held_out={share} of {len(y)} images leaves {len(chosen)} to train on and "
            f"{len(held_out)} held out; both need one at least."
        )
    return chosen, np.sort(held_out)


def _check_shape(shape: tuple[int, ...]) -> None:
    multiple = 2**_HALVINGS
    if len(shape) != 3 or shape[0] < 1 or any(n < 1 or n % multiple for n in shape[1:]):
        raise ValueError(
            f"image_shape must be (channels, height, width) with height and width multiples of "
            f"{multiple}, which the network halves {_HALVINGS} times, but is {tuple(shape)}. "
            "mixvi.datasets.prepare_images brings images to 32 x 32."
        )
