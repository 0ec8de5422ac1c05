"""What a linear classifier reads from frozen codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mixvi.core.arguments import check_positive
from mixvi.core.data.alignment import names_of
from mixvi.metrics.pairs import of_each_cell


def linear_probe(
    train_latents,
    train_labels: Sequence,
    test_latents,
    test_labels: Sequence,
    *,
    C: float = 1.0,
    max_iter: int = 1000,
) -> float:
    """Test accuracy of multinomial logistic regression on standardised codes, in [0, 1].

    Astorga (2021, section 6.3.2) names neither optimiser nor regularisation: here scikit-learn's
    L-BFGS with an L2 penalty, on codes brought to mean 0 and variance 1 by those of training.

    Parameters
    ----------
    train_latents, test_latents
        Codes ``(n, J)`` and ``(m, J)``: the encoder's means.
    train_labels, test_labels
        Of each row.
    C
        Inverse strength of the penalty, as in :class:`sklearn.linear_model.LogisticRegression`.
    max_iter
        Steps of L-BFGS at most; scikit-learn warns where they do not suffice.

    Raises
    ------
    ValueError
        If shapes do not fit, values are not finite or missing, there is but one label, or the
        test has labels that training lacks.
    """
    check_positive("C", C, integer=False)
    check_positive("max_iter", max_iter)
    train_x = _codes(train_latents, "train_latents")
    test_x = _codes(test_latents, "test_latents")
    if train_x.shape[1] != test_x.shape[1]:
        raise ValueError(
            f"train_latents has {train_x.shape[1]} dimensions, test_latents {test_x.shape[1]}; "
            "encode both with the same model."
        )
    train_y = of_each_cell(train_labels, len(train_x), "train_labels", names_of(train_latents))
    test_y = of_each_cell(test_labels, len(test_x), "test_labels", names_of(test_latents))
    known = set(train_y.tolist())
    if len(known) < 2:
        raise ValueError("train_labels must have at least two different labels.")
    new = set(test_y.tolist()) - known
    if new:
        raise ValueError(
            f"test_labels has labels that train_labels lacks: {', '.join(sorted(map(repr, new)))}."
        )
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=max_iter))
    return float(probe.fit(train_x, train_y).score(test_x, test_y))


def _codes(latents, name: str) -> np.ndarray:
    if isinstance(latents, torch.Tensor):
        latents = latents.detach().cpu().numpy()
    x = np.asarray(latents, dtype=np.float64)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"{name} must be (n, J) with n > 0, but has the shape {x.shape}.")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} has NaN or infinite values.")
    return x
