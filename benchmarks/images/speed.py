"""Training of the thesis's networks (chapter 6) beside a bare torch loop over the same networks.

Both take the same minibatches' worth of images from memory, on one thread, in one process, in turn:
which comes first changes with the repeat. The bare loop has its own losses, one Adam a network, and
nothing else: no records, no AnnData, no checks. Networks are the backbone's in either.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import lightning.pytorch as pl
import numpy as np
import scvi
import torch
from anndata import AnnData
from benchmarks.compare import in_child, summary, table
from benchmarks.record import RESULTS, TRAINER, add_device, quiet, use_device, write
from benchmarks.speed import now
from torch.nn import functional as F

from mixvi.images import GenerativeInference
from mixvi.images.backbones import make_backbone

SHAPE = (1, 32, 32)
N_LATENT, BATCH_SIZE = 10, 64
ADAM = {"lr": 2e-4, "betas": (0.0, 0.999), "fused": True}
# minibatches timed, after as many to warm up
CASES = {
    "resnet, 128 channels, VAE": ("resnet", {"n_channels": 32}, "vae", 6, 2),
    "resnet, 128 channels, AIM": ("resnet", {"n_channels": 32}, "aim", 3, 1),
    "conv, 16 channels, VAE": ("conv", {"n_channels": 16}, "vae", 200, 30),
    "conv, 16 channels, AIM": ("conv", {"n_channels": 16}, "aim", 100, 15),
}


class Clock(pl.Callback):
    """Seconds of the minibatches after the warm-up."""

    def __init__(self, timed: int, warm_up: int):
        self._first, self._last = warm_up, warm_up + timed
        self._n = 0
        self.seconds = 0.0

    def on_train_batch_end(self, trainer, *args) -> None:
        self._n += 1
        if self._n == self._first:
            self._start = now()
        if self._n == self._last:
            self.seconds = now() - self._start


def ours(images: np.ndarray, case: str) -> float:
    """Seconds a minibatch of ``train``."""
    backbone, options, objective, timed, warm_up = CASES[case]
    adata = AnnData(obsm={"image": images[: BATCH_SIZE * (timed + warm_up)]})
    GenerativeInference.setup_anndata(adata)
    steps = {"d_steps": 1} if objective == "aim" else {}
    model = GenerativeInference(
        adata, objective, N_LATENT, backbone, objective_kwargs=steps, backbone_kwargs=options
    )
    clock = Clock(timed, warm_up)
    model.train(1, batch_size=BATCH_SIZE, callbacks=[clock], **TRAINER)
    return clock.seconds / timed


def bare(images: np.ndarray, case: str) -> float:
    """Seconds a minibatch of the bare loop."""
    name, options, objective, timed, warm_up = CASES[case]
    backbone = make_backbone(name, SHAPE, N_LATENT, options)
    nets = {"encoder": backbone.encoder(), "generator": backbone.generator()}
    if objective == "aim":
        nets["critic"] = backbone.image_critic()
    device = "cpu" if TRAINER["accelerator"] == "cpu" else "cuda"
    for net in nets.values():
        net.to(device, memory_format=torch.channels_last).train()
    x = torch.from_numpy(images[: BATCH_SIZE * (timed + warm_up)])
    x = x.to(device, memory_format=torch.channels_last)
    step = {"vae": _vae, "aim": _aim}[objective](nets)
    for i, rows in enumerate(torch.randperm(len(x), device=device).split(BATCH_SIZE)):
        if i == warm_up:
            start = now()
        step(x[rows])
    return (now() - start) / timed


def _vae(nets: dict) -> Callable[[torch.Tensor], None]:
    optimizers = [torch.optim.Adam(net.parameters(), **ADAM) for net in nets.values()]

    def step(x: torch.Tensor) -> None:
        mu, log_var = nets["encoder"](x)
        z = mu + (0.5 * log_var).exp() * torch.randn_like(mu)
        kl = 0.5 * (mu.square() + log_var.exp() - log_var - 1.0).sum(1)
        loss = (0.5 * (x - nets["generator"](z)).square().sum((1, 2, 3)) + kl).mean()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


def _aim(nets: dict) -> Callable[[torch.Tensor], None]:
    encoder, generator, critic = nets["encoder"], nets["generator"], nets["critic"]
    optimizers = {name: torch.optim.Adam(net.parameters(), **ADAM) for name, net in nets.items()}

    def update(name: str, loss: torch.Tensor) -> None:
        optimizers[name].zero_grad()
        loss.backward()
        optimizers[name].step()

    def draw(x: torch.Tensor) -> torch.Tensor:
        return torch.randn(len(x), N_LATENT, device=x.device)

    def step(x: torch.Tensor) -> None:
        with torch.no_grad():
            fake = generator(draw(x))
        update("critic", F.relu(1.0 - critic(x)).mean() + F.relu(1.0 + critic(fake)).mean())
        # its gradients would be thrown away
        critic.requires_grad_(False)
        update("generator", -critic(generator(draw(x))).mean())
        critic.requires_grad_(True)
        z = draw(x)
        with torch.no_grad():
            fake = generator(z)
        mu, log_var = encoder(fake)
        nll = 0.5 * (np.log(2.0 * np.pi) + log_var + (z - mu).square() / log_var.exp())
        update("encoder", nll.sum(1).mean())

    return step


def once(images: np.ndarray, case: str, repeat: int) -> dict[str, float]:
    """Both, and their ratio."""
    scvi.settings.seed = repeat
    methods = {"mixvi": ours, "bare": bare}
    order = sorted(methods, reverse=bool(repeat % 2))
    taken = {name: methods[name](images, case) for name in order}
    return {
        "mixvi_ms": 1e3 * taken["mixvi"],
        "bare_ms": 1e3 * taken["bare"],
        "ratio": taken["mixvi"] / taken["bare"],
    }


def main() -> None:
    """Run all cases and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    add_device(parser)
    given = parser.parse_args()
    use_device(given.device)
    quiet()
    settings = {
        "image_shape": SHAPE,
        "n_latent": N_LATENT,
        "batch_size": BATCH_SIZE,
        "cases": {case: CASES[case] for case in given.cases},
    }
    most = max(timed + warm_up for *_, timed, warm_up in CASES.values())
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (BATCH_SIZE * most, *SHAPE)).astype(np.float32)
    runs = []
    for repeat in range(given.repeats):
        for case in given.cases:
            figures = in_child(once, images, case, repeat)
            runs.append({"case": case, "method": "training", "seed": repeat, **figures})
            print(repeat, case, {k: round(v, 3) for k, v in figures.items()}, flush=True)
        write("images/speed", settings, runs, summary(runs), echo=False)
        (RESULTS / "images" / "speed.md").write_text(table("images/speed", runs))


if __name__ == "__main__":
    main()
