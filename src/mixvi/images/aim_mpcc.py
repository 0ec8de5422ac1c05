"""AIM-MPCC: AIM with MPCC's networks and steps, its baseline (Astorga 2021, section 8.2)."""

from __future__ import annotations

import torch
from anndata import AnnData
from torch import Tensor, nn

from mixvi.core.maths.mixture_prior import GaussianMixturePrior
from mixvi.core.training.steps import Step
from mixvi.images.mpcc import MPCCNetworks
from mixvi.images.mpcc_module import MPCCModule


class AIMMPCCModule(MPCCModule):
    """MPCC with one component, N(0, I), that stays as it is and that no network sees."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        pixel_range: tuple[float, float],
        n_latent: int,
        networks: dict[str, nn.Module],
        prior: GaussianMixturePrior,
        **settings,
    ):
        super().__init__(image_shape, pixel_range, n_latent, networks, prior, **settings)
        # no optimiser for it
        self.network_names = tuple(name for name in self.network_names if name != "prior")
        prior.requires_grad_(False)
        with torch.no_grad():
            prior.mu.zero_()
            prior.raw.zero_()

    def steps(self) -> tuple[Step, ...]:
        """Critic at each minibatch; generator and encoder at each ``d_steps``-th."""
        cls, every = type(self), self.d_steps
        return (
            Step("critic", ("image_critic",), cls.critic_step),
            Step("generator", ("generator",), cls.generator_step, every=every),
            Step("encoder", ("encoder",), cls.encoder_step, self.e_steps, every),
        )

    def draw_inputs(self, n: int, cluster: int | None = None) -> tuple[Tensor, ...]:
        """Draws of N(0, I)."""
        return self.prior.draw(n)[:1]

    def generator_inputs(self, z: Tensor, cluster: int | None = None) -> tuple[Tensor, ...]:
        """Codes alone."""
        return (z,)


class AIMMPCC(MPCCNetworks):
    """A GAN with a standard normal prior and an encoder, in MPCC's networks and steps.

    What MPCC gains by its mixture and by sharing is measured against this (Astorga 2021, table
    8.5); there are no clusters.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    conditioning
        ``"split"`` or ``"copy"``.
    n_latent, backbone, backbone_kwargs, share, own_plain_block, d_steps, e_steps
        See :class:`mixvi.images.MPCC`; ``share=False`` is the thesis's "NS".
    ema_decay, ema_start
        See :class:`mixvi.images.MPCC`.

    Raises
    ------
    ValueError
        If a name or setting is unknown, or the images do not suit the backbone.
    """

    _prefix = "aim_mpcc"

    def __init__(
        self,
        adata: AnnData | None = None,
        n_latent: int = 128,
        backbone: str = "resnet",
        backbone_kwargs: dict | None = None,
        conditioning: str = "split",
        share: bool = True,
        own_plain_block: bool = True,
        d_steps: int = 4,
        e_steps: int = 4,
        ema_decay: float | None = 0.9999,
        ema_start: int = 1000,
        registry: dict | None = None,
    ):
        super().__init__(adata, registry)
        networks = self._networks(
            backbone,
            backbone_kwargs,
            n_latent,
            conditioning=conditioning,
            share=share,
            own_plain_block=own_plain_block,
        )
        module = AIMMPCCModule(
            self.image_shape,
            self.pixel_range,
            n_latent,
            networks,
            GaussianMixturePrior(1, n_latent),
            ema_decay=ema_decay,
            ema_start=ema_start,
            d_steps=d_steps,
            e_steps=e_steps,
        )
        self._finish(module, locals(), f"AIMMPCC with backbone={backbone}")

    def train(
        self,
        max_epochs: int | None = None,
        *,
        lr: float | dict[str, float] = 2e-4,
        batch_size: int = 50,
        **kwargs,
    ) -> None:
        """As :meth:`mixvi.images.GenerativeInference.train`, with minibatches of 50 images."""
        super().train(max_epochs, lr=lr, batch_size=batch_size, **kwargs)
