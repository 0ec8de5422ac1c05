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
    with pytest.raises(ValueError, match="no term of a loss .* It has 'train_loss'"):
        pl.loss_terms({"train_loss": pd.DataFrame({"v": [1.0]})})


def test_terms_of_other_models_are_drawn_under_their_names():
    names = ["critic_loss", "critic_real", "kl", "joint_loss", "adversarial", "latent_nll"]
    history = {f"{name}_train": pd.DataFrame({"v": [1.0, 0.5]}) for name in names}
    history["kl_validation"] = pd.DataFrame({"v": [1.0, 2.0]})
    axes = pl.loss_terms(history | {"train_loss": pd.DataFrame({"v": [1.0, 0.5]})})
    assert [ax.get_title() for ax in axes] == [name.replace("_", " ") for name in names]
    assert len(axes[2].lines) == 2 and len(axes[0].lines) == 1
    # no empty panels, and epochs are whole numbers
    assert len(axes[0].figure.axes) == len(names)
    axes[0].figure.canvas.draw()
    assert all(
        float(t.get_text().replace("\N{MINUS SIGN}", "-")) % 1 == 0
        for t in axes[0].get_xticklabels()
    )


def test_models_of_images(fit_images):
    model = fit_images("ali", epochs=2)
    axes = pl.loss_terms(model)
    assert {"critic loss", "joint loss"} <= {ax.get_title() for ax in axes}
