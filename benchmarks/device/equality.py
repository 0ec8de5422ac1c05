"""Every model on a device and on the CPU: same weights, same inputs, same noise, same results.

A model is trained shortly on the device, which must end finite; it is saved there and loaded on the
CPU, and both give latents, reconstructions, losses and gradients of the losses. Noise is drawn on
the CPU for both. Products and convolutions are in single precision, without TF32.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import scvi
import torch
from anndata import AnnData
from benchmarks.device.part import Part, Row
from benchmarks.record import TRAINER
from scipy import sparse
from torch import Tensor
from torch.overrides import TorchFunctionMode

import mixvi
from mixvi.core.data.loading import inference_loader
from mixvi.images import AIMMPCC, MPCC, ConditionalMPCC, GenerativeInference, VaDE
from mixvi.images.objective import OBJECTIVES

# relative errors in the 2-norm; gradients pass through more, and through kinks
TOLERANCE = {"latent": 1e-4, "reconstruction": 1e-4, "loss": 1e-4, "gradient": 2e-3}
N_ROWS, N_GENES, IMAGE_SIZE, N_CHANNELS = 256, 200, 32, 4
BATCH_SIZE = 64
DRAWS = (torch.randn, torch.randn_like, torch.rand, torch.rand_like, torch.multinomial)


class SameNoise(TorchFunctionMode):
    """Random numbers from the CPU's generator, wherever they are needed."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func not in DRAWS:
            return func(*args, **kwargs)
        given = [value.device for value in args if isinstance(value, Tensor)]
        device = kwargs.pop("device", None) or (given[0] if given else "cpu")
        on_cpu = [value.cpu() if isinstance(value, Tensor) else value for value in args]
        return func(*on_cpu, **kwargs).to(device)


def counts() -> AnnData:
    """Counts of two kinds of cell under two conditions, in two batches."""
    rng = np.random.default_rng(0)
    kind, condition, batch = rng.integers(0, 2, (3, N_ROWS))
    rates = np.exp(rng.normal(-1.5, 1.0, (2, N_GENES)))
    x = rng.poisson(rates[kind] * (1.0 + condition[:, None])).astype(np.float32)
    columns = {"kind": kind, "condition": condition, "batch": batch}
    obs = pd.DataFrame(
        {name: pd.Categorical([f"{name} {i}" for i in codes]) for name, codes in columns.items()},
        index=[f"cell {i}" for i in range(N_ROWS)],
    )
    return AnnData(sparse.csr_matrix(x), obs=obs)


def pictures() -> AnnData:
    """Images of a bar, across or upright."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, N_ROWS)
    x = rng.uniform(-1.0, -0.8, (N_ROWS, 1, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32)
    for image, at, turned in zip(x, rng.integers(0, IMAGE_SIZE - 6, N_ROWS), kind, strict=True):
        (image[0].T if turned else image[0])[at : at + 6] += 1.6
    obs = pd.DataFrame(
        {"kind": pd.Categorical(np.array(["across", "upright"])[kind])},
        index=[f"image {i}" for i in range(N_ROWS)],
    )
    return AnnData(obs=obs, obsm={"image": x})


CELLS: dict[str, tuple[Any, dict, dict]] = {
    "AE": (mixvi.AE, {}, {}),
    "VAE": (mixvi.VAE, {"batch_key": "batch"}, {"likelihood": "nb"}),
    "CVAE": (mixvi.CVAE, {"condition_key": "condition"}, {"likelihood": "poisson"}),
    "GMVAE": (mixvi.GMVAE, {}, {"likelihood": "nb", "n_components": 5}),
    "GMVAE, zinb": (mixvi.GMVAE, {}, {"likelihood": "zinb", "n_components": 5}),
    "GMVAE, labels": (mixvi.GMVAE, {"labels_key": "kind"}, {"likelihood": "gaussian_sigma"}),
    "CGMVAE": (
        mixvi.CGMVAE,
        {"condition_key": "condition", "labels_key": "kind"},
        {"likelihood": "nb", "n_components": 5},
    ),
}
RESNET = {"backbone": "resnet", "backbone_kwargs": {"n_channels": N_CHANNELS}}
CLUSTERS: dict[str, tuple[Any, dict, dict, dict]] = {
    "VaDE": (
        VaDE,
        {},
        {"n_clusters": 2, "n_latent": 4, "backbone_kwargs": {"n_hidden": [64, 64]}},
        {"pretrain_epochs": 1},
    ),
    "MPCC": (MPCC, {}, {"n_clusters": 2, "n_latent": 8, "d_steps": 2, **RESNET}, {}),
    "ConditionalMPCC": (
        ConditionalMPCC,
        {"labels_key": "kind"},
        {"n_latent": 16, "d_steps": 2, "conditioning": "copy", **RESNET},
        {},
    ),
    "AIMMPCC": (AIMMPCC, {}, {"n_latent": 16, "d_steps": 2, "conditioning": "copy", **RESNET}, {}),
}


def trained_cells(name: str) -> Any:
    """A model of cells after two epochs on the device."""
    cls, setup, options = CELLS[name]
    cells = counts()
    cls.setup_anndata(cells, **setup)
    model = cls(cells, n_hidden=32, n_layers=1, dropout_rate=0.0, **options)
    model.train(2, batch_size=BATCH_SIZE, **TRAINER)
    return model


def trained_images(name: str) -> Any:
    """A model of images after two epochs on the device."""
    images = pictures()
    if name in CLUSTERS:
        cls, setup, options, train = CLUSTERS[name]
    else:
        cls, setup, train = GenerativeInference, {}, {}
        options = {"objective": name, "n_latent": 8, **RESNET}
    cls.setup_anndata(images, **setup)
    model = cls(images, **options)
    model.train(2, batch_size=BATCH_SIZE, **train, **TRAINER)
    return model


def outputs(model: Any) -> dict[str, np.ndarray]:
    """Latents and reconstructions, without noise."""
    return {
        "latent": model.get_latent_representation(),
        "reconstruction": model.get_reconstruction(),
    }


def minibatch(model: Any) -> dict[str, Tensor]:
    """The first rows on the model's device, dense as a device has them."""
    rows = np.arange(BATCH_SIZE)
    (tensors,) = inference_loader(model.adata_manager, rows, BATCH_SIZE, "cpu")
    tensors = {key: values for key, values in tensors.items() if key != "X_sparse"} | (
        {"X": tensors["X_sparse"].dense()} if "X_sparse" in tensors else {}
    )
    return {key: values.to(model.device) for key, values in tensors.items()}


def losses_of_cells(model: Any) -> Iterator[tuple[str, Tensor, list[Tensor]]]:
    """The loss, by name, and the weights that it moves."""
    yield "loss", model.module(minibatch(model))[2].loss, list(model.module.parameters())


def losses_of_images(model: Any) -> Iterator[tuple[str, Tensor, list[Tensor]]]:
    """The loss of each step, and the weights of the networks that it updates."""
    module = model.module
    rows = module.training_rows(minibatch(model))
    for step in module.steps():
        loss, _ = module.loss(step, *rows)
        yield step.name, loss, [p for n in step.updates for p in getattr(module, n).parameters()]


def losses(model: Any) -> dict[str, dict[str, np.ndarray]]:
    """Losses in training mode and their gradients, by name; weights and buffers stay."""
    of = losses_of_images if hasattr(model.module, "steps") else losses_of_cells
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    model.module.train()
    found: dict[str, dict[str, np.ndarray]] = {"loss": {}, "gradient": {}}
    torch.manual_seed(0)
    with SameNoise():
        for name, loss, weights in of(model):
            slopes = torch.autograd.grad(loss, weights, allow_unused=True)
            flat = [slope.flatten().cpu() for slope in slopes if slope is not None]
            found["loss"][name] = loss.detach().cpu().numpy()
            found["gradient"][name] = torch.cat(flat).numpy()
    model.module.load_state_dict(before)
    return found


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Relative error in the 2-norm."""
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-12))


def compare_devices(model: Any) -> Row:
    """A trained model beside the same loaded on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder, overwrite=True)
        other = type(model).load(folder, model.adata, accelerator="cpu")
    ours, theirs = model.module.state_dict(), other.module.state_dict()
    errors = {
        name: distance(a, b)
        for name, a, b in zip(
            ("latent", "reconstruction"),
            outputs(model).values(),
            outputs(other).values(),
            strict=True,
        )
    }
    there, here = losses(model), losses(other)
    for kind in ("loss", "gradient"):
        errors[kind] = max(distance(there[kind][name], here[kind][name]) for name in here[kind])
    is_finite = all(np.isfinite(table.to_numpy(float)).all() for table in model.history.values())
    is_saved = all(torch.equal(value.cpu(), theirs[key]) for key, value in ours.items())
    within = all(errors[name] <= tolerance for name, tolerance in TOLERANCE.items())
    return {f"{name}_error": value for name, value in errors.items()} | {
        "finite": is_finite,
        "saved_equal": is_saved,
        "equal": within and is_finite and is_saved,
        "on": str(model.device),
    }


@contextmanager
def single_precision() -> Iterator[None]:
    """No TF32, and few threads: tensors are small."""
    kept = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    torch.set_num_threads(min(4, torch.get_num_threads()))
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = kept


def equality(part: Part) -> None:
    """Each model; one that fails is a row, too."""
    models: dict[str, Callable[[str], Any]] = dict.fromkeys(CELLS, trained_cells)
    models |= dict.fromkeys([*CLUSTERS, *OBJECTIVES], trained_images)
    if part.toy:
        models = {name: models[name] for name in ("GMVAE", "VaDE", "MPCC")}
    with single_precision():
        for name, build in models.items():
            start = time.perf_counter()
            scvi.settings.seed = 0
            try:
                row = compare_devices(build(name))
            except Exception as error:  # noqa: BLE001, a model that fails is a finding
                row = {"equal": False, "failed": f"{type(error).__name__}: {error}"[:400]}
            row["seconds"] = time.perf_counter() - start
            part.send({"part": "equality", "case": name, "method": part.device, "seed": 0, **row})
