"""JS-VAE (Astorga 2021, section 6.1)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mixvi.core import arguments
from mixvi.images.divergences import mixture_js, symmetric_kl
from mixvi.images.objectives.moments import MomentMatching


@dataclass(frozen=True, kw_only=True)
class JSVAE(MomentMatching):
    """Reconstruction and a symmetric divergence of the codes' moments.

    Attributes
    ----------
    js
        ``"symmetric"``: the mean of both KLs; ``"mixture"``: the mean KL to the Gaussian with the
        moments of the mixture of both.
    """

    name = "js_vae"

    js: str = "symmetric"

    def __post_init__(self):
        super().__post_init__()
        arguments.check_choice("js", self.js, ("symmetric", "mixture"))

    def divergence(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """The divergence that ``js`` names."""
        chosen = symmetric_kl if self.js == "symmetric" else mixture_js
        return chosen(mean, covariance)
