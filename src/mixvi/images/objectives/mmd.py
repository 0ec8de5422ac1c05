"""InfoVAE with MMD, which is WAE-MMD (Zhao et al. 2017; Tolstikhin et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mixvi.core import arguments
from mixvi.images.divergences import squared_mmd
from mixvi.images.module import ImageModule
from mixvi.images.objectives.autoencoder import Autoencoder, Codes


@dataclass(frozen=True, kw_only=True)
class MMD(Autoencoder):
    """Reconstruction and the maximum mean discrepancy of codes to as many draws of the prior.

    Attributes
    ----------
    beta
        Weight of the discrepancy; the thesis has 0.33, 1 and 30.
    kernel
        ``"rbf"`` (InfoVAE's) or ``"imq"`` (WAE's).
    codes
        Posterior ``"samples"`` or ``"means"``.
    """

    name = "mmd"

    beta: float = 1.0
    kernel: str = "rbf"
    codes: str = "samples"

    def __post_init__(self):
        super().__post_init__()
        arguments.check_choice("kernel", self.kernel, ("rbf", "imq"))
        arguments.check_choice("codes", self.codes, ("means", "samples"))

    def restriction(self, nets: ImageModule, x: Tensor, codes: Codes) -> tuple[str, Tensor]:
        """Squared MMD, biased estimate."""
        return "mmd", squared_mmd(codes.of(self.codes), nets.draw_prior(len(x)), self.kernel)
