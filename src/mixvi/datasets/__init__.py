"""Data sets: real ones found locally or downloaded with a checksum, and made-up ones."""

from mixvi.datasets.annotation import partial_labels
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
from mixvi.datasets.clouds import cloud_masks, hide_with_real_clouds
from mixvi.datasets.dsprites import DSPRITES, sprites
from mixvi.datasets.fetch import find
from mixvi.datasets.images import CIFAR10, CIFAR10_COMPLETE, cifar10, prepare_images
from mixvi.datasets.light_curves import (
    ASAS_VARIABLES,
    DEBOSSCHER_VARIABLES,
    SDSS82_RRLYRAE,
    asas_variables,
    debosscher_variables,
    linear_variables,
    sdss82_rrlyrae,
)
from mixvi.datasets.mnist_files import FASHION_MNIST, MNIST, fashion_mnist, mnist
from mixvi.datasets.omniglot import (
    OMNIGLOT,
    OMNIGLOT_ONE_SHOT,
    omniglot,
    omniglot_one_shot,
)
from mixvi.datasets.pixel_series import (
    MATO_GROSSO_SAMPLES,
    RONDONIA_SAMPLES,
    S2_PIXEL_SERIES,
    mato_grosso_samples,
    rondonia_samples,
    s2_pixel_series,
)
from mixvi.datasets.satellite import (
    CBERS_PATCH,
    MATO_GROSSO_RASTER,
    S2_PATCHES,
    SENTINEL2_PATCH,
    SINOP_RASTER,
    cbers_patch,
    mato_grosso_raster,
    s2_patches,
    sentinel2_patch,
    sinop_raster,
)
from mixvi.datasets.street_scenes import CAMVID, camvid, cityscapes
from mixvi.datasets.tiles import spatial_blocks, split_blocks
from mixvi.datasets.toy import toy_conditional_blobs
from mixvi.datasets.toy_light_curves import SYNTHETIC_CLASSES, synthetic_light_curves
from mixvi.datasets.toy_regions import toy_region_images
from mixvi.datasets.toy_satellite import toy_satellite_series

__all__ = [
    "ASAS_VARIABLES",
    "CAMVID",
    "CBERS_PATCH",
    "CIFAR10",
    "CIFAR10_COMPLETE",
    "DEBOSSCHER_VARIABLES",
    "DSPRITES",
    "FASHION_MNIST",
    "KANG",
    "MATO_GROSSO_RASTER",
    "MATO_GROSSO_SAMPLES",
    "MNIST",
    "OMNIGLOT",
    "OMNIGLOT_ONE_SHOT",
    "PAPALEXI",
    "PBMC3K",
    "RONDONIA_SAMPLES",
    "S2_PATCHES",
    "S2_PIXEL_SERIES",
    "SDSS82_RRLYRAE",
    "SENTINEL2_PATCH",
    "SHALEK",
    "SINOP_RASTER",
    "SORTED_PBMC",
    "SYNTHETIC_CLASSES",
    "asas_variables",
    "camvid",
    "cbers_patch",
    "cifar10",
    "cityscapes",
    "cloud_masks",
    "debosscher_variables",
    "fashion_mnist",
    "find",
    "hide_with_real_clouds",
    "kang",
    "linear_variables",
    "mato_grosso_raster",
    "mato_grosso_samples",
    "mnist",
    "omniglot",
    "omniglot_one_shot",
    "papalexi_eccite",
    "partial_labels",
    "pbmc3k",
    "pbmc68k_reduced",
    "prepare_images",
    "rondonia_samples",
    "s2_patches",
    "s2_pixel_series",
    "sdss82_rrlyrae",
    "sentinel2_patch",
    "shalek_bmdc",
    "sinop_raster",
    "sorted_pbmc",
    "spatial_blocks",
    "split_blocks",
    "sprites",
    "synthetic_light_curves",
    "toy_conditional_blobs",
    "toy_region_images",
    "toy_satellite_series",
]
