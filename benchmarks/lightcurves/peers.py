"""What the field uses on features of light curves, and deep SVDD on LC-VaDE's encoder."""

from __future__ import annotations

import numpy as np
import torch
from anndata import AnnData
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from mixvi.core.data.loading import inference_loader
from mixvi.lightcurves import FEATURES, curve_features
from mixvi.lightcurves.curves import Curves
from mixvi.lightcurves.lcvade import CurveVAE

# what a period says by itself
_OF_PERIOD = ("period", "log_period")
FOREST = {"n_estimators": 500, "min_samples_leaf": 2}


def features(adata: AnnData, with_period: bool) -> np.ndarray:
    """All features ``(n, F)``; without the period those of the folded shape stay."""
    names = [name for name in FEATURES if name not in _OF_PERIOD or with_period]
    if with_period:
        names.remove("period")
    return np.nan_to_num(curve_features(adata, names).to_numpy())


def isolation_forest(train: AnnData, test: AnnData, seed: int, with_period: bool) -> np.ndarray:
    """Strangeness ``(n_test,)`` by an isolation forest of the features."""
    forest = IsolationForest(n_estimators=500, random_state=seed)
    return -forest.fit(features(train, with_period)).score_samples(features(test, with_period))


def one_class_svm(train: AnnData, test: AnnData, with_period: bool) -> np.ndarray:
    """Strangeness ``(n_test,)`` by a one-class support vector machine of the features."""
    machine = make_pipeline(StandardScaler(), OneClassSVM(nu=0.05))
    machine.fit(features(train, with_period))
    return -machine.decision_function(features(test, with_period))


def random_forest(train: AnnData, test: AnnData, seed: int, with_period: bool) -> np.ndarray:
    """Predicted classes ``(n_test,)``."""
    forest = RandomForestClassifier(**FOREST, class_weight="balanced", random_state=seed)
    forest.fit(features(train, with_period), train.obs["label"])
    return forest.predict(features(test, with_period))


def deep_svdd(
    train: AnnData,
    test: AnnData,
    seed: int,
    *,
    width: int,
    epochs: int,
    batch_size: int,
    setup: dict,
) -> np.ndarray:
    """Distance ``(n_test,)`` to the nearest centre of a class (deep SVDD of several classes).

    LC-VaDE's encoder pulls each star to the centre of its class, which is where a network that is
    not trained puts the class on average (Ruff et al. 2018; Perez-Carrasco et al. 2023).
    """
    torch.manual_seed(seed)
    # models that are not trained give minibatches, standardised by the first
    models = []
    for adata in (train, test):
        CurveVAE.setup_anndata(adata, labels_key="label", **setup)
        models.append(CurveVAE(adata, width=width))
    module = models[0].module
    head = torch.nn.Linear(12 + len(models[0].features), 32, bias=False)

    def batches(model: CurveVAE, rows: np.ndarray):
        for tensors in inference_loader(model.adata_manager, rows, batch_size):
            yield module.seen(module.rows(tensors))

    def embed(curves: Curves) -> torch.Tensor:
        return head(torch.cat([module.encode(curves)[0], curves.features], dim=1))

    rows = np.arange(train.n_obs)
    with torch.no_grad():
        seen = [(embed(curves), curves.labels) for curves in batches(models[0], rows)]
    first, codes = (torch.cat(part) for part in zip(*seen, strict=True))
    centres = torch.stack([first[codes == k].mean(0) for k in codes.unique()])
    weights = [*module.encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(weights, lr=1e-3, weight_decay=1e-6)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for curves in batches(models[0], rng.permutation(rows)):
            loss = (embed(curves) - centres[curves.labels]).square().sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    module.eval()
    with torch.no_grad():
        found = torch.cat([embed(c) for c in batches(models[1], np.arange(test.n_obs))])
    return torch.cdist(found, centres).amin(1).numpy()


def linear_in_phase(
    phase: np.ndarray, magnitude: np.ndarray, valid: np.ndarray, at: np.ndarray
) -> np.ndarray:
    """Magnitudes ``(n, T)`` at phases, linear between neighbours on the circle."""
    found = np.empty(at.shape)
    for i in range(len(at)):
        known = valid[i]
        found[i] = np.interp(at[i], phase[i, known], magnitude[i, known], period=1.0)
    return found
