"""Data sets: real ones found locally or downloaded with a checksum, and one made up."""

from mixvi.datasets.cells import (
    KANG,
    PAPALEXI,
    PBMC3K,
    SHALEK,
    SORTED_PBMC,
    kang,
    papalexi_eccite,
    pbmc3k,
    pbmc68k_reduced,
    shalek_bmdc,
    sorted_pbmc,
)
from mixvi.datasets.fetch import find
from mixvi.datasets.images import CIFAR10, CIFAR10_COMPLETE, cifar10, prepare_images
from mixvi.datasets.mnist_files import FASHION_MNIST, MNIST, fashion_mnist, mnist
from mixvi.datasets.toy import toy_conditional_blobs

__all__ = [
    "CIFAR10",
    "CIFAR10_COMPLETE",
    "FASHION_MNIST",
    "KANG",
    "MNIST",
    "PAPALEXI",
    "PBMC3K",
    "SHALEK",
    "SORTED_PBMC",
    "cifar10",
    "fashion_mnist",
    "find",
    "kang",
    "mnist",
    "papalexi_eccite",
    "pbmc3k",
    "pbmc68k_reduced",
    "prepare_images",
    "shalek_bmdc",
    "sorted_pbmc",
    "toy_conditional_blobs",
]
