"""What autoencoders share that restrict the moments of a minibatch's codes."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from mixvi.core import arguments
from mixvi.images.divergences import batch_moments
from mixvi.images.module import ImageModule
from mixvi.images.objectives.autoencoder import Autoencoder, Codes


@dataclass(frozen=True, kw_only=True)
class MomentMatching(Autoencoder):
    """A divergence of the codes' moments, N(m, V), to the prior (Astorga 2021, section 6.1).

    Attributes
    ----------
    beta
        Weight of the divergence; the thesis has 0.33, 1 and 30.
    codes
        What m and V are taken of: posterior ``"means"``, as in the thesis, or ``"samples"``. Means
        leave the encoder's variance without restriction: it becomes small.
    """

    beta: float = 1.0
    codes: str = "means"

    def __post_init__(self):
        super().__post_init__()
        arguments.check_choice("codes", self.codes, ("means", "samples"))

    def smallest_batch(self, n_latent: int) -> int:
        """The covariance of N codes has full rank for N > J alone."""
        return n_latent + 1

    def restriction(self, nets: ImageModule, x: Tensor, codes: Codes) -> tuple[str, Tensor]:
        """The divergence of the minibatch's moments."""
        mean, covariance = batch_moments(codes.of(self.codes))
        return "divergence", self.divergence(mean, covariance).to(x.dtype)

    @abstractmethod
    def divergence(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """Divergence between N(mean, covariance) and N(0, I)."""
