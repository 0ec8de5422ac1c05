"""MPCC with the thesis's networks on MNIST for as long as there is time, with its curve."""

from __future__ import annotations

import time

import lightning.pytorch as pl
import numpy as np
import scvi
import torch
from anndata import AnnData
from benchmarks.device.equality import N_CHANNELS, pictures
from benchmarks.device.part import Part, peak, reset_peak
from benchmarks.record import TRAINER
from benchmarks.speed import now

import mixvi
from mixvi.images import MPCC, mpcc_recipe
from mixvi.metrics import accuracy_by_overlap, clustering_report

N_CURVE = 5000
# minibatches before the clock starts; seconds between points, and those kept for the end
WARM_UP, EVERY, RESERVE = 40, 6.0, 12.0


def data(toy: bool) -> tuple[AnnData, np.ndarray]:
    """MNIST as the thesis's networks take it, or images of bars, and what they are of."""
    if toy:
        images = pictures()
        return images, images.obs.pop("kind").astype(str).to_numpy()
    images = mixvi.datasets.prepare_images(mixvi.datasets.mnist())
    return images, images.obs.pop("digit").astype(str).to_numpy()


class Curve(pl.Callback):
    """Majority accuracy on some images every few seconds of training, whose clock stands still."""

    def __init__(self, part: Part, model: MPCC, images: np.ndarray, labels: np.ndarray):
        rows = np.random.default_rng(0).permutation(len(labels))[:N_CURVE]
        x = torch.from_numpy(images[rows]).float()
        low, high = model.pixel_range
        self._x = (x - low) * (2.0 / (high - low)) - 1.0
        self._labels = labels[rows]
        self._part, self._d_steps = part, model.module.d_steps
        self.warm_up = self._d_steps if part.toy else WARM_UP
        self._due = self._begin = 0.0
        self.n_minibatches, self.seconds = 0, 0.0

    def on_train_batch_end(self, trainer, plan, *args) -> None:
        self.n_minibatches += 1
        if self.n_minibatches == self.warm_up:
            self._begin = now()
        if self.n_minibatches < self.warm_up or self.n_minibatches % self._d_steps:
            return
        tried = self._part.toy and self.n_minibatches > 2 * self.warm_up
        done = tried or self._part.left() < RESERVE
        # a clock that does not wait for the device, which would be once an update
        if not done and self.seconds + time.perf_counter() - self._begin < self._due:
            return
        self.seconds += now() - self._begin
        self._due = self.seconds + EVERY
        self._point(plan.module)
        if done:
            trainer.should_stop = True
            trainer.limit_train_batches = 0
        self._begin = now()

    @torch.no_grad()
    def _point(self, module) -> None:
        module.eval()
        parts = self._x.to(module.device).split(500)
        found = torch.cat([module.prior.assign(module.encode(x)[0]) for x in parts])
        module.train()
        n_updates = self.n_minibatches // self._d_steps
        self._part.send(
            {
                "part": "mpcc",
                "case": f"{n_updates} updates",
                "method": "MPCC",
                "seed": 0,
                "updates": n_updates,
                "seconds": self.seconds,
                "accuracy_majority": accuracy_by_overlap(found.cpu().numpy(), self._labels),
            }
        )


def mpcc(part: Part) -> None:
    """The thesis's settings; rates of updates, and accuracies on all images at the end."""
    images, labels = data(part.toy)
    recipe = mpcc_recipe("mnist")
    options = dict(recipe.model_kwargs)
    if part.toy:
        options |= {"backbone_kwargs": {"n_channels": N_CHANNELS}}
    scvi.settings.seed = 0
    MPCC.setup_anndata(images)
    model = MPCC(images, **options)
    reset_peak()
    curve = Curve(part, model, images.obsm["image"], labels)
    model.train(**recipe.train_kwargs, callbacks=[curve], **TRAINER)
    report = clustering_report(model.get_cluster_assignments(batch_size=1000).to_numpy(), labels)
    d_steps, n_images = model.module.d_steps, images.n_obs
    updates_a_second = (curve.n_minibatches - curve.warm_up) / d_steps / curve.seconds
    whole = recipe.train_kwargs["max_epochs"] * (n_images // recipe.train_kwargs["batch_size"])
    part.send(
        {
            "part": "mpcc",
            "case": f"{n_images} images",
            "method": "MPCC",
            "seed": 0,
            "updates": curve.n_minibatches // d_steps,
            "seconds": curve.seconds,
            "accuracy_majority": report["accuracy_overlap"],
            "accuracy_hungarian": report["accuracy_hungarian"],
            "nmi": report["nmi"],
            "updates_a_second": updates_a_second,
            "hours_of_the_thesis_run": whole / d_steps / updates_a_second / 3600.0,
            **peak(),
        }
    )
