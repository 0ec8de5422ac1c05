"""The base of generative models of images: training by steps, and the verbs they share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from anndata import AnnData
from sklearn.mixture import GaussianMixture

from mixvi.core import arguments
from mixvi.core.data.annotations import Annotations, check_key_added
from mixvi.core.training.threads import few_threads
from mixvi.images.fitting import ImageFittingMixin
from mixvi.images.module import ImageModule
from mixvi.images.registered import RegisteredImages
from mixvi.metrics.information import (
    empirical_information,
    encoder_entropy,
    mutual_information,
)


class ImageModel(ImageFittingMixin, RegisteredImages):
    """Base of the generative models of images; subclasses build ``self.module`` and add verbs."""

    module: ImageModule

    @torch.inference_mode()
    def _posterior(
        self, adata: AnnData | None, indices: Sequence[int] | None, batch_size: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and variances of q(z | x), each ``(n_obs, n_latent)``."""
        adata = self._validate_anndata(adata)
        means, variances = [], []
        for x in self._batches(adata, indices, batch_size):
            mu, log_var = self.module.encode(x)
            means.append(mu)
            variances.append(log_var.exp())
        # fetched once, so that no minibatch waits for the device
        return torch.cat(means).cpu(), torch.cat(variances).cpu()

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        give_mean: bool = True,
        return_dist: bool = False,
        n_samples: int = 1,
        batch_size: int | None = None,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Latent coordinates of each image.

        Parameters
        ----------
        adata, indices, batch_size
            Images to encode (default: all the model was built on) and how many at a time.
        give_mean
            Mean of q(z | x), or a sample of it.
        return_dist
            Return mean and variance instead.
        n_samples
            Number of samples if ``give_mean`` is false.

        Returns
        -------
        ``(n_obs, n_latent)``; ``(n_samples, n_obs, n_latent)`` for several samples; or the pair
        (mean, variance), each ``(n_obs, n_latent)``.
        """
        arguments.check_positive("n_samples", n_samples)
        mean, variance = self._posterior(adata, indices, batch_size)
        return self._from_posterior(mean, variance, give_mean, return_dist, n_samples)

    @torch.inference_mode()
    def get_reconstruction(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        give_mean: bool = True,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """The generator's image of each image's code, ``(n_obs, C, H, W)``.

        On the scale of the registered images, by the generator that :meth:`sample` uses. Batch norm
        has the averages of training.

        Parameters
        ----------
        adata, indices, batch_size
            Images, and how many at a time.
        give_mean
            Decode the mean of q(z | x), or a sample of it.
        """
        adata = self._validate_anndata(adata)
        out = [
            self.module.to_pixels(self._reconstructed(x, give_mean)).cpu()
            for x in self._batches(adata, indices, batch_size)
        ]
        return torch.cat(out).numpy()

    def _reconstructed(self, x: torch.Tensor, give_mean: bool) -> torch.Tensor:
        posterior = self.module.inference(x)
        return self.module.reconstruct(posterior["mu_z" if give_mean else "z"])

    @torch.inference_mode()
    def get_reconstruction_error(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        return_mean: bool = True,
        batch_size: int | None = None,
    ) -> float | np.ndarray:
        """Mean squared error of a pixel, images being in [-1, 1], codes at their means.

        Its natural logarithm is the column "LL in X" of Astorga 2021, tables 6.4 and 6.5.

        Parameters
        ----------
        return_mean
            The mean over images, or the value of each.

        Returns
        -------
        A float, or an array ``(n_obs,)``.
        """
        adata = self._validate_anndata(adata)
        errors = []
        for x in self._batches(adata, indices, batch_size):
            squares = (x - self._reconstructed(x, give_mean=True)).square()
            errors.append(squares.flatten(1).mean(1).cpu())
        errors = torch.cat(errors)
        return float(errors.double().mean()) if return_mean else errors.numpy()

    @torch.inference_mode()
    def get_latent_mse(self, n: int = 10_000, *, batch_size: int | None = None) -> float:
        """Mean squared error of a latent dimension, from draws of the prior to their images' codes.

        ``(z - mu(G(z)))^2``; its natural logarithm is the column "LL in Z" of Astorga 2021, tables
        6.4 and 6.5. Batch norm has standing statistics.

        Parameters
        ----------
        n
            Number of draws.
        batch_size
            How many at a time.
        """
        arguments.check_positive("n", n)
        total = 0.0
        for z, x in self._generated(n, batch_size):
            total += float((z - self.module.encode(x)[0]).square().mean(1).sum())
        return total / n

    @torch.inference_mode()
    def sample(
        self,
        n: int,
        *,
        from_: str = "prior",
        n_components: int = 10,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """New images: z from the prior, then the generator, ``(n, C, H, W)``.

        On the scale of the registered images. Batch norm has standing statistics of 16 passes on
        draws of the prior (Astorga 2021, section 6.3). With ``ema_decay`` all images that a model
        returns are of the moving average of its generator.

        Parameters
        ----------
        n
            Number of images.
        from_
            ``"prior"``; or ``"codes"``: z from a mixture of Gaussians fitted to draws of q(z | x)
            of the images the model was built on (ex-post density, Ghosh et al. 2020). Codes of
            many autoencoders do not fill the prior, whose draws the generator then never saw.
            Batch norm has the averages of training.
        n_components
            Gaussians of that mixture, of full covariance.
        batch_size
            How many at a time.

        Raises
        ------
        ValueError
            If ``from_`` is unknown, or there are fewer images than components.
        """
        arguments.check_positive("n", n)
        arguments.check_choice("from_", from_, ("prior", "codes"))
        if from_ == "codes":
            parts = self._code_draws(n, n_components).split(batch_size or 128)
            made = [self.module.reconstruct(z.to(self.module.device)) for z in parts]
            return torch.cat([self.module.to_pixels(x).cpu() for x in made]).numpy()
        images = [self.module.to_pixels(x).cpu() for _, x in self._generated(n, batch_size)]
        return torch.cat(images).numpy()

    def _code_draws(self, n: int, n_components: int) -> torch.Tensor:
        """Draws ``(n, n_latent)`` of a mixture fitted to codes of the images of training."""
        arguments.check_positive("n_components", n_components)
        codes = self.get_latent_representation(give_mean=False).astype(np.float64)
        if len(codes) < n_components:
            raise ValueError(
                f"n_components={n_components}, but the model was built on {len(codes)} images. "
                "Lower it."
            )
        mixture = GaussianMixture(n_components, reg_covar=1e-4, random_state=drawn_seed())
        z = torch.as_tensor(mixture.fit(codes).sample(n)[0], dtype=torch.float32)
        # they come one component after the other
        return z[torch.randperm(n)]

    def _generated(self, n: int, batch_size: int | None, **of: int | None):
        """Draws of the prior with their images in [-1, 1], in parts.

        ``of`` is passed to the module's ``draw_inputs``.
        """
        self._check_if_trained()
        self.module.eval()
        batch_size = batch_size or 128
        with few_threads(), self.module.for_sampling() as generator:
            for start in range(0, n, batch_size):
                inputs = self.module.draw_inputs(min(batch_size, n - start), **of)
                yield inputs[0], generator(*inputs)

    def decode_latent(self, z: np.ndarray, *, batch_size: int | None = None) -> np.ndarray:
        """Images of latent coordinates of your own, ``(n, C, H, W)``.

        On the scale of the registered images; batch norm as in :meth:`sample`.

        Parameters
        ----------
        z
            ``(n, n_latent)``.

        Raises
        ------
        ValueError
            If ``z`` has another shape.
        """
        return self._decoded(z, batch_size)

    @torch.inference_mode()
    def _decoded(self, z: np.ndarray, batch_size: int | None, **of: int | None) -> np.ndarray:
        """Images of codes; ``of`` is passed to the module's ``generator_inputs``."""
        self._check_if_trained()
        self.module.eval()
        z = torch.as_tensor(np.asarray(z), dtype=torch.float32)
        if z.ndim != 2 or z.shape[1] != self.module.n_latent:
            raise ValueError(
                f"z must have shape (n, {self.module.n_latent}), but has {tuple(z.shape)}."
            )
        with few_threads(), self.module.for_sampling() as generator:
            images = []
            for part in z.split(batch_size or 128):
                inputs = self.module.generator_inputs(part.to(self.module.device), **of)
                images.append(self.module.to_pixels(generator(*inputs)).cpu())
        return torch.cat(images).numpy()

    def get_mutual_information(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        moments: str = "total",
        batch_size: int | None = None,
    ) -> float:
        """Estimate of the information between images and codes, in nats.

        Parameters
        ----------
        moments
            ``"total"``: q(z) has the encoder's variance, too, and the estimate is an upper bound,
            which may exceed the logarithm of the number of images by far; ``"means"``: as in the
            tables of Astorga 2021, where it may be negative. See
            :func:`mixvi.metrics.mutual_information`.
        """
        mean, variance = self._posterior(adata, indices, batch_size)
        return mutual_information(mean.numpy(), variance.numpy(), moments)

    def get_empirical_information(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_draws: int = 2000,
        batch_size: int | None = None,
    ) -> float:
        """How well codes tell which of the images they are of, in nats: log n_obs at most.

        Unlike :meth:`get_mutual_information` it takes q(z) for what it is, the mixture of the
        posteriors of the images, and so never exceeds what they can tell.

        Parameters
        ----------
        n_draws
            Images of which a code is drawn, see :func:`mixvi.metrics.empirical_information`.
        """
        arguments.check_positive("n_draws", n_draws)
        mean, variance = self._posterior(adata, indices, batch_size)
        options = {"n_draws": n_draws, "seed": drawn_seed()}
        return empirical_information(mean.numpy(), variance.numpy(), **options)

    def get_encoder_entropy(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
    ) -> float:
        """h_q(z | x), mean over images, in nats (Astorga 2021, section 6.2)."""
        return encoder_entropy(self._posterior(adata, indices, batch_size)[1].numpy())

    @property
    def _prefix(self) -> str:
        """What keys of annotated AnnData are named for."""
        return type(self).__name__.lower()

    def annotate(
        self,
        adata: AnnData | None = None,
        *,
        key_added: str | None = None,
        reconstruction: bool = False,
        batch_size: int | None = None,
    ) -> None:
        """Write codes and errors into the AnnData.

        Keys: ``obsm["X_<key>"]`` and ``obsm["X_<key>_variance"]``, mean and variance of q(z | x),
        each ``(n_obs, n_latent)``; ``obs["<key>_reconstruction_error"]``, mean squared error of a
        pixel; ``obsm["<key>_reconstruction"]`` ``(n_obs, C, H, W)`` with ``reconstruction=True``;
        ``uns["<key>"]`` with the settings.

        Parameters
        ----------
        key_added
            The key; default the name of the objective or the model.
        reconstruction
            Write the reconstruction, too.

        Warns
        -----
        UserWarning
            If keys are replaced that another class of model or the user wrote.
        """
        check_key_added(key_added)
        adata = self._validate_anndata(adata)
        key = key_added or self._prefix
        self._annotations(adata, key, reconstruction, batch_size).write(adata)

    def _annotations(
        self, adata: AnnData, key: str, reconstruction: bool, batch_size: int | None
    ) -> Annotations:
        """What :meth:`annotate` writes; subclasses add to it."""
        found = Annotations(key, self._description())
        mean, variance = self.get_latent_representation(
            adata, return_dist=True, batch_size=batch_size
        )
        found.obsm |= {f"X_{key}": mean, f"X_{key}_variance": variance}
        errors = self.get_reconstruction_error(adata, return_mean=False, batch_size=batch_size)
        found.obs[f"{key}_reconstruction_error"] = errors
        if reconstruction:
            images = self.get_reconstruction(adata, batch_size=batch_size)
            found.obsm[f"{key}_reconstruction"] = images
        return found


def drawn_seed() -> int:
    """Drawn from torch, so that scvi's seed decides."""
    return int(torch.randint(2**31, ()))
