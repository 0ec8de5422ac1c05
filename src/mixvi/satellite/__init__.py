"""Land cover and gap-free series from series of satellite images with clouds and few labels."""

from mixvi.satellite.hierarchical_vae import HierarchicalVAE
from mixvi.satellite.interpolation import (
    band_mean,
    dineof,
    hants,
    linear_interpolation,
    nearest_date,
    savitzky_golay,
    seasonal_climatology,
    whittaker,
)
from mixvi.satellite.mixmatch_segmenter import MixMatchSegmenter, PseudoLabels
from mixvi.satellite.prediction import predict_scene
from mixvi.satellite.rasters import read_scene, write_raster
from mixvi.satellite.symmetric_hvae import SymmetricHVAE
from mixvi.satellite.symmetric_vae import SymmetricVAE
from mixvi.satellite.tiling import iter_tiles, stitch, tile
from mixvi.satellite.unet_segmenter import UNetSegmenter
from mixvi.satellite.validity import SCL_CLASSES, valid_from_scl
from mixvi.satellite.views import Augmentation

__all__ = [
    "Augmentation",
    "HierarchicalVAE",
    "MixMatchSegmenter",
    "PseudoLabels",
    "SCL_CLASSES",
    "SymmetricHVAE",
    "SymmetricVAE",
    "UNetSegmenter",
    "band_mean",
    "dineof",
    "hants",
    "iter_tiles",
    "linear_interpolation",
    "nearest_date",
    "predict_scene",
    "read_scene",
    "savitzky_golay",
    "seasonal_climatology",
    "stitch",
    "tile",
    "valid_from_scl",
    "whittaker",
    "write_raster",
]
