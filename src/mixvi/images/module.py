"""The base of image modules: an encoder, a generator, further networks, and steps that train them.

A module gives networks and losses; it knows no AnnData and no optimiser.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from math import prod

import torch
from scvi import REGISTRY_KEYS
from torch import Tensor, nn

from mixvi.core import arguments
from mixvi.core.data.resident import SPARSE_KEY
from mixvi.core.maths.averaging import move_average, warmed_decay
from mixvi.core.maths.mixture import reparameterise
from mixvi.core.training.steps import Step, StepwiseModule
from mixvi.images.blocks import renew_spectral_norms, standing_statistics
from mixvi.images.likelihoods import LOG_VAR_MAX, LOG_VAR_MIN

STANDING_BATCH = 64


def signed_rows(
    tensors: dict[str, Tensor], image_shape: tuple[int, ...], pixel_range: tuple[float, float]
) -> Tensor:
    """Images ``(B, C, H, W)`` in [-1, 1] of one minibatch (registry key to tensor).

    Parameters
    ----------
    tensors
        The minibatch.
    image_shape
        (C, H, W).
    pixel_range
        Smallest and largest value of the registered images.
    """
    x = tensors.get(REGISTRY_KEYS.X_KEY)
    if x is None:
        x = tensors[SPARSE_KEY].dense()
    low, high = pixel_range
    x = x.reshape(len(x), *image_shape).contiguous(memory_format=torch.channels_last)
    return x if (low, high) == (-1.0, 1.0) else (x - low) * (2.0 / (high - low)) - 1.0


class ImageModule(StepwiseModule):
    """Networks by name, among them ``encoder`` and ``generator``.

    Parameters
    ----------
    image_shape
        (C, H, W).
    pixel_range
        Smallest and largest value of the registered images; networks see [-1, 1].
    n_latent
        Size J of z.
    networks
        Name to network; each is an attribute of the module and has an optimiser of its own.
    ema_decay
        Decay of the moving average of the generator that users see images of; ``None``: no average.
        It is ``min(ema_decay, (1 + n) / (10 + n))`` at the average's n-th update, so that a short
        run is not averaged with its beginning.
    ema_start
        Updates of the generator before the average starts.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        pixel_range: tuple[float, float],
        n_latent: int,
        networks: dict[str, nn.Module],
        ema_decay: float | None = None,
        ema_start: int = 1000,
    ):
        super().__init__(networks)
        self.image_shape = tuple(image_shape)
        self.n_values = prod(self.image_shape)
        self.n_latent = n_latent
        self.pixel_range = tuple(pixel_range)
        arguments.check_positive("ema_start", ema_start)
        if ema_decay is not None:
            arguments.check_rate("ema_decay", ema_decay)
        self.ema_decay = ema_decay
        self.ema_start = ema_start
        self.averaged_generator = None
        if ema_decay is not None:
            self.averaged_generator = deepcopy(self.generator).requires_grad_(False)
            self.register_buffer("n_generator_updates", torch.zeros((), dtype=torch.long))
        # a CPU convolves faster in this order
        self.to(memory_format=torch.channels_last)

    def rows(self, tensors: dict[str, Tensor]) -> Tensor:
        """Images ``(B, C, H, W)`` in [-1, 1] of one minibatch (registry key to tensor)."""
        return signed_rows(tensors, self.image_shape, self.pixel_range)

    def to_pixels(self, x: Tensor) -> Tensor:
        """Images in [-1, 1] on the scale of the registered ones."""
        low, high = self.pixel_range
        return x if (low, high) == (-1.0, 1.0) else (x + 1.0) * (0.5 * (high - low)) + low

    def training_rows(self, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """What losses take of one minibatch: images, and what else a model has registered."""
        return (self.rows(tensors),)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), each ``(B, n_latent)``; log-variances are clamped."""
        mu, log_var = self.encoder(x)
        if mu.dtype in (torch.bfloat16, torch.float16):
            # densities and moments want more digits than mixed precision leaves
            mu, log_var = mu.float(), log_var.float()
        return mu, log_var.clamp(LOG_VAR_MIN, LOG_VAR_MAX)

    def decode(self, z: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [-1, 1]."""
        return self.generator(*self.generator_inputs(z))

    @property
    def shown_generator(self) -> nn.Module:
        """The generator of all images that users see: the averaged one, if there is an average."""
        return self.generator if self.averaged_generator is None else self.averaged_generator

    def reconstruct(self, z: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [-1, 1] by the shown generator, of codes of images."""
        return self.shown_generator(*self.generator_inputs(z))

    def draw_prior(self, n: int) -> Tensor:
        """Draws of N(0, I), ``(n, n_latent)``."""
        return torch.randn(n, self.n_latent, device=self.device)

    def draw_inputs(self, n: int) -> tuple[Tensor, ...]:
        """What the generator makes ``n`` images of: draws of the prior, z first."""
        return (self.draw_prior(n),)

    def generator_inputs(self, z: Tensor) -> tuple[Tensor, ...]:
        """What the generator takes for codes ``(B, n_latent)``, z first."""
        return (z,)

    def pair_scores(self, x: Tensor, z: Tensor, unary: bool = False) -> list[Tensor]:
        """Scores ``(B,)`` of pairs by D_xz; with ``unary`` those of D_x and D_z, too."""
        of_x, of_z = self.image_critic.features(x), self.latent_critic.features(z)
        scores = [self.pair_critic(torch.cat([of_x, of_z], dim=1))]
        if unary:
            scores += [self.image_critic.score(of_x), self.latent_critic.score(of_z)]
        return scores

    @contextmanager
    def for_sampling(self) -> Iterator[nn.Module]:
        """The shown generator, with standing statistics of 16 passes on draws of the prior."""
        generator = self.shown_generator
        with standing_statistics(generator, lambda: self.draw_inputs(STANDING_BATCH)):
            yield generator

    def after_step(self, step: Step) -> None:
        """Move the average after an update of the generator."""
        if "generator" in step.updates:
            self.update_average()

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the averaged generator towards the present one, after an update of it."""
        if self.averaged_generator is None:
            return
        self.n_generator_updates += 1
        n = (self.n_generator_updates - self.ema_start).clamp_min(0)
        # until the start the average is the generator itself
        decay = torch.where(n > 0, warmed_decay(n, self.ema_decay), 0.0)
        move_average(self.averaged_generator, self.generator, decay)
        renew_spectral_norms(self.averaged_generator)

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs) -> dict:
        return {"x": self.rows(tensors)}

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict, **kwargs
    ) -> dict:
        return {"z": inference_outputs["z"]}

    def inference(self, x: Tensor) -> dict[str, Tensor]:
        """Encode and draw z."""
        mu, log_var = self.encode(x)
        return {"mu_z": mu, "lv_z": log_var, "z": reparameterise(mu, log_var)}

    def generative(self, z: Tensor) -> dict[str, Tensor]:
        """Decode."""
        return {"x": self.decode(z)}
