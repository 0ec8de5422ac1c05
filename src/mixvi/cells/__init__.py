"""Single-cell models: AE, VAE, CVAE, GMVAE, CGMVAE."""

from mixvi.cells.ae import AE
from mixvi.cells.assignment import ComponentAssignment
from mixvi.cells.cgmvae import CGMVAE
from mixvi.cells.cvae import CVAE
from mixvi.cells.gmvae import GMVAE
from mixvi.cells.vae import VAE

__all__ = ["AE", "CGMVAE", "CVAE", "GMVAE", "VAE", "ComponentAssignment"]
