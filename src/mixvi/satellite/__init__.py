"""Land cover and gap-free series from series of satellite images with clouds and few labels."""

from mixvi.satellite.interpolation import (
    band_mean,
    dineof,
    linear_interpolation,
    nearest_date,
    savitzky_golay,
    seasonal_climatology,
    whittaker,
)
from mixvi.satellite.prediction import predict_scene
from mixvi.satellite.rasters import read_scene, write_raster
from mixvi.satellite.tiling import iter_tiles, stitch, tile
from mixvi.satellite.unet_segmenter import UNetSegmenter
from mixvi.satellite.validity import SCL_CLASSES, valid_from_scl
from mixvi.satellite.views import Augmentation

__all__ = [
    "Augmentation",
    "UNetSegmenter",
    "band_mean",
    "dineof",
    "linear_interpolation",
    "nearest_date",
    "savitzky_golay",
    "seasonal_climatology",
    "whittaker",
    "SCL_CLASSES",
    "iter_tiles",
    "predict_scene",
    "read_scene",
    "stitch",
    "tile",
    "valid_from_scl",
    "write_raster",
]
