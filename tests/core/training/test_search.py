"""scvi-tools' hyperparameter search takes mixvi's models as they are."""

from __future__ import annotations

import pytest

import mixvi


def test_search(tmp_path):
    for name in ("ray.tune", "hyperopt", "scib_metrics"):
        pytest.importorskip(name, reason=f"{name} is missing: pip install 'mixvi[autotune]'")
    from ray import shutdown, tune
    from scvi.autotune import run_autotune

    adata = mixvi.datasets.toy_conditional_blobs(n_per_group=25)
    mixvi.GMVAE.setup_anndata(adata)
    experiment = run_autotune(
        mixvi.GMVAE,
        adata,
        metrics="elbo_validation",
        mode="min",
        search_space={
            "model_params": {"n_components": 5, "n_hidden": 16, "n_layers": 1},
            "train_params": {
                "lr": tune.grid_search([1e-7, 1e-2]),
                "max_epochs": 4,
                "init_epochs": 2,
                "train_size": 0.8,
                "accelerator": "cpu",
            },
        },
        num_samples=1,
        scheduler="fifo",
        searcher="random",
        seed=1,
        resources={"cpu": 1},
        logging_dir=str(tmp_path),
        ignore_reinit_error=True,
    )
    shutdown()
    results = list(experiment.result_grid)
    assert [result.error for result in results] == [None, None]
    # one report an epoch, none of them from the epochs that start the components
    assert [result.metrics["training_iteration"] for result in results] == [4, 4]
    best = experiment.result_grid.get_best_result("elbo_validation", "min")
    assert best.config["train_params"]["lr"] == 1e-2
