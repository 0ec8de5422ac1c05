from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from mixvi import pl


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_validation_is_drawn_beside_training():
    history = {
        "reconstruction_loss_train": pd.DataFrame({"v": [3.0, 2.0, 1.0]}),
        "reconstruction_loss_validation": pd.DataFrame({"v": [4.0, 3.0, 2.0]}),
        "z_train": pd.DataFrame({"v": [1.0, 1.0, 1.0]}),
    }
    axes = pl.loss_terms(history)
    assert [len(ax.lines) for ax in axes] == [2, 1]
    assert axes[0].lines[1].get_ydata().tolist() == [4, 3, 2]
    assert axes[0].lines[1].get_linestyle() == "--"
    assert axes[0].get_ylabel() == "nats per cell"


def test_a_history_without_terms():
    with pytest.raises(ValueError, match="none of .* It has 'train_loss'"):
        pl.loss_terms({"train_loss": pd.DataFrame({"v": [1.0]})})
