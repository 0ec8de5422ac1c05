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

__all__ = [
    "band_mean",
    "dineof",
    "linear_interpolation",
    "nearest_date",
    "savitzky_golay",
    "seasonal_climatology",
    "whittaker",
]
