"""Classes of variable stars and strange ones among them, from light curves of irregular times."""

from mixvi.lightcurves.anomaly import class_isolation_forests, class_mahalanobis
from mixvi.lightcurves.energy_gmm import EnergyGMM
from mixvi.lightcurves.features import FEATURES, curve_features
from mixvi.lightcurves.gaussian_process import (
    CholeskySolve,
    GaussianProcessDecoder,
    Periodic,
    SquaredExponential,
    expected_log_likelihood,
    induction_times,
)
from mixvi.lightcurves.interpolation import InterpolationPrediction
from mixvi.lightcurves.lcvade import CurveVAE, LCVaDE
from mixvi.lightcurves.periods import find_epochs, find_periods, fold
from mixvi.lightcurves.protocol import HeldOut, leave_class_out
from mixvi.lightcurves.tables import from_tables

__all__ = [
    "CholeskySolve",
    "CurveVAE",
    "EnergyGMM",
    "FEATURES",
    "GaussianProcessDecoder",
    "HeldOut",
    "InterpolationPrediction",
    "LCVaDE",
    "Periodic",
    "SquaredExponential",
    "class_isolation_forests",
    "class_mahalanobis",
    "curve_features",
    "expected_log_likelihood",
    "find_epochs",
    "find_periods",
    "fold",
    "from_tables",
    "induction_times",
    "leave_class_out",
]
