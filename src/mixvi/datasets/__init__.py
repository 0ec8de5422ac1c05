"""Data sets: real ones found locally or downloaded with a checksum, and one made up."""

from mixvi.datasets.cells import KANG, PBMC3K, kang, pbmc3k, pbmc68k_reduced
from mixvi.datasets.fashion import fashion_mnist
from mixvi.datasets.fetch import find
from mixvi.datasets.images import (
    CIFAR10,
    CIFAR10_COMPLETE,
    MNIST,
    cifar10,
    mnist,
    prepare_images,
)
from mixvi.datasets.toy import toy_conditional_blobs

__all__ = [
    "CIFAR10",
    "CIFAR10_COMPLETE",
    "KANG",
    "MNIST",
    "PBMC3K",
    "cifar10",
    "fashion_mnist",
    "find",
    "kang",
    "mnist",
    "pbmc3k",
    "pbmc68k_reduced",
    "prepare_images",
    "toy_conditional_blobs",
]
