"""User paths: train, read results, save, load, go on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import CPU, assert_resumes, bars

from mixvi.images import GenerativeInference, VaDE
from mixvi.images.objective import OBJECTIVES
from mixvi.metrics.information import encoder_entropy, posterior_kl

# what falls in a short fit; scores of critics need not
FALLS = {
    "aim": "latent_nll",
    "infogan": "latent_nll",
    "veegan": "latent_nll",
    "alice": "reconstruction",
    "ali": "critic_loss",
    "vae_gan": "critic_loss",
}


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_a_short_fit_lowers_the_objective(objective, fit_images, images):
    # a turn of all steps at each minibatch
    turn = {"d_steps": 1} if hasattr(OBJECTIVES[objective], "d_steps") else None
    model = fit_images(objective, epochs=12, objective_kwargs=turn)
    name = FALLS.get(objective, "reconstruction") + "_train"
    values = model.history[name][name].astype(float)
    assert len(values) == 12
    assert values.iloc[-3:].mean() < values.iloc[0]
    for step in model.module.steps():
        assert f"{step.name}_loss_train" in model.history
    assert np.isfinite(model.get_reconstruction_error())
    assert model.get_latent_representation().shape == (192, 3)
    assert model.sample(5).shape == (5, 1, 8, 8)


def test_a_vae_reconstructs(fit_images, images):
    model = fit_images("vae", epochs=60, train={"lr": 4e-3, "batch_size": 32})
    assert model.get_reconstruction_error() < 0.1 * images.obsm["image"].var()
    error = (model.get_reconstruction() - images.obsm["image"]) ** 2
    per_image = model.get_reconstruction_error(return_mean=False)
    np.testing.assert_allclose(per_image, error.mean((1, 2, 3)), rtol=1e-4)
    terms = model.get_elbo(return_terms=True)
    mean, variance = model.get_latent_representation(return_dist=True)
    assert terms["Z"] == pytest.approx(posterior_kl(mean, variance), rel=1e-4)
    # one sample of z, where the error is at its mean
    constant = 32 * np.log(2 * np.pi)
    assert terms["R"] > 0.5 * 64 * per_image.mean() + constant
    assert terms["R"] == pytest.approx(0.5 * 64 * per_image.mean() + constant, rel=0.05)
    torch.manual_seed(0)
    table = model.get_elbo(return_terms=True, return_mean=False)
    torch.manual_seed(0)
    each = model.get_elbo(return_mean=False).numpy()
    torch.manual_seed(0)
    assert model.get_elbo() == pytest.approx(each.mean(), rel=1e-5)
    np.testing.assert_allclose(each, -table["total"], rtol=1e-5)
    assert list(table.index) == list(images.obs_names)
    assert terms["total"] == pytest.approx(terms["R"] + terms["Z"])
    assert model.get_encoder_entropy() == pytest.approx(encoder_entropy(variance), rel=1e-5)
    total, means = (model.get_mutual_information(moments=m) for m in ("total", "means"))
    assert 0 < means < total
    assert 0 < model.get_empirical_information() <= np.log(192)
    torch.manual_seed(0)
    assert model.get_latent_mse(2000) < 0.6


def test_verbs(fit_images, images):
    model = fit_images("aim", epochs=2)
    rows = [5, 3]
    mean = model.get_latent_representation()
    np.testing.assert_allclose(model.get_latent_representation(indices=rows), mean[rows], rtol=1e-5)
    samples = model.get_latent_representation(give_mean=False, n_samples=4)
    assert samples.shape == (4, 192, 3)
    assert model.get_discriminator_score().shape == (192,)
    sampled = model.get_reconstruction(indices=rows, give_mean=False)
    assert sampled.shape == (2, 1, 8, 8)
    assert model.decode_latent(mean[:7], batch_size=3).shape == (7, 1, 8, 8)
    with pytest.raises(ValueError, match=r"z must have shape \(n, 3\)"):
        model.decode_latent(mean[:, :2])
    with pytest.raises(ValueError, match="trains no autoencoder"):
        model.get_elbo(return_terms=True)
    with pytest.raises(ValueError, match="n must be a positive"):
        model.sample(0)
    with pytest.raises(ValueError, match="objective='wvae' has no critic of images"):
        fit_images("wvae", epochs=1).get_discriminator_score()


@pytest.mark.parametrize("objective", ["ali", "avb", "vae_gan"])
def test_discriminator_scores(objective, fit_images):
    assert np.isfinite(fit_images(objective, epochs=2).get_discriminator_score()).all()


@pytest.mark.parametrize("backbone", ["mlp", "conv"])
def test_codes_of_a_vae_gan_tell_of_the_image(backbone, fit_images, images):
    """More than a nat, and enough for images that are nearer than their mean."""
    options = {"backbone": backbone, "backbone_kwargs": {"n_hidden": 64}}
    model = fit_images("vae_gan", epochs=40, train={"lr": 2e-3, "batch_size": 32}, **options)
    x = images.obsm["image"]
    assert model.get_mutual_information() > 1
    assert model.get_empirical_information() > 1
    assert model.get_reconstruction_error() < 0.5 * ((x - x.mean(0)) ** 2).mean()


def test_annotate(fit_images, images):
    model = fit_images("wvae")
    model.annotate(reconstruction=True)
    mean, variance = model.get_latent_representation(return_dist=True)
    np.testing.assert_array_equal(images.obsm["X_wvae"], mean)
    np.testing.assert_array_equal(images.obsm["X_wvae_variance"], variance)
    assert images.obsm["wvae_reconstruction"].shape == (192, 1, 8, 8)
    error = model.get_reconstruction_error()
    assert images.obs["wvae_reconstruction_error"].mean() == pytest.approx(error, rel=1e-4)
    assert images.uns["wvae"]["settings"]["objective_kwargs"]["beta"] == 1.0


def test_save_and_load(fit_images, images, tmp_path):
    model = fit_images(
        "alice", objective_kwargs={"d_steps": 1}, ema_decay=0.9, ema_start=2, n_latent=4
    )
    model.save(tmp_path / "model")
    loaded = GenerativeInference.load(tmp_path / "model", images)
    np.testing.assert_array_equal(
        loaded.get_latent_representation(), model.get_latent_representation()
    )
    for one in (model, loaded):
        torch.manual_seed(3)
        images_of = one.sample(6)
        if one is model:
            expected = images_of
    np.testing.assert_array_equal(images_of, expected)
    with pytest.raises(ValueError, match=r"not a VaDE. Load it with GenerativeInference.load\("):
        VaDE.load(tmp_path / "model", images)
    assert loaded.objective == model.objective
    assert loaded.history.keys() == model.history.keys()
    loaded.train(1, **CPU)
    without = GenerativeInference.load(tmp_path / "model", adata=False)
    assert without.sample(2).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="loaded without data"):
        without.get_latent_representation()


def test_files_and_views(fit_images, images, tmp_path):
    """An annotated AnnData goes through a file; a model is loaded beside it and reads a view."""
    model = fit_images("infogan", objective_kwargs={"n_code": None})
    model.annotate(reconstruction=True)
    model.save(tmp_path / "model", save_anndata=True)
    loaded = GenerativeInference.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.adata.obsm["X_infogan"], images.obsm["X_infogan"])
    view = loaded.adata[40:50]
    mean = loaded.get_latent_representation(view)
    np.testing.assert_allclose(mean, images.obsm["X_infogan"][40:50], rtol=1e-5)
    loaded.annotate(view)
    assert view.obsm["X_infogan"].shape == (10, 3)


@pytest.mark.parametrize("objective", ["wvae", "aim"])
def test_resume(objective, images, tmp_path, monkeypatch):
    """Stopped in its third epoch, a run goes on to the same weights and records."""
    GenerativeInference.setup_anndata(images)

    def run(directory, **more):
        torch.manual_seed(0)
        model = GenerativeInference(
            images, objective, n_latent=3, backbone="conv", backbone_kwargs={"n_channels": 2}
        )
        model.train(5, batch_size=50, lr=1e-3, checkpoint_dir=directory, **CPU, **more)
        return model

    # three minibatches an epoch; AIM takes five steps in four of them
    assert_resumes(run, tmp_path, monkeypatch, n_losses={"wvae": 8, "aim": 9}[objective])


def test_turns_of_steps(fit_images, images, monkeypatch):
    """Each minibatch the critic, each fourth generator and encoder; short minibatches never."""
    from mixvi.images.module import ImageModule

    taken = []
    loss = ImageModule.loss

    def counted(self, step, x):
        taken.append((step.name, len(x)))
        return loss(self, step, x)

    monkeypatch.setattr(ImageModule, "loss", counted)
    # 192 images: three minibatches of 50 an epoch, and 42 left out
    fit_images("aim", epochs=4, objective_kwargs={"e_steps": 2}, train={"batch_size": 50})
    names = [name for name, _ in taken]
    assert {n for _, n in taken} == {50}
    assert names == (["critic"] * 4 + ["generator", "encoder", "encoder"]) * 3


def test_records_count_on(fit_images):
    """Terms that some epochs lack, too."""
    model = fit_images("aim", epochs=2)
    model.train(4, batch_size=64, **CPU)
    assert list(model.history["critic_loss_train"].index) == list(range(6))
    # three minibatches an epoch, an update of the generator at each fourth of a call
    assert list(model.history["generator_loss_train"].index) == [1, 3, 4, 5]


def test_steps_change_their_networks_alone(images):
    """With learning rates of their own, by networks of their own."""
    GenerativeInference.setup_anndata(images)
    options = {"n_latent": 3, "backbone": "mlp", "backbone_kwargs": {"n_hidden": 16}}
    model = GenerativeInference(images, "aim", objective_kwargs={"d_steps": 1}, **options)
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    lr = {"encoder": 1e-12, "generator": 1e-2, "image_critic": 1e-12}
    model.train(1, lr=lr, **CPU)
    moved = {
        name
        for name, values in model.module.named_parameters()
        if (values - before[name]).abs().max() > 1e-6
    }
    assert moved and all(name.startswith("generator") for name in moved)


def test_validation_records(fit_images):
    model = fit_images("aim", train={"train_size": 0.6, "batch_size": 32})
    for name in ("critic_loss", "generator_loss", "encoder_loss", "latent_nll"):
        assert len(model.history[f"{name}_validation"]) == 3


def test_losses_that_are_not_finite_stop_training(images):
    GenerativeInference.setup_anndata(images)
    model = GenerativeInference(images, "vae", n_latent=3, backbone="mlp")
    with torch.no_grad():
        model.module.encoder.mean.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="epoch 1, .*reconstruction.*lr"):
        model.train(5, **CPU)


def test_chapter_6_backbone_trains(images):
    adata = type(images)(obsm={"image": bars(48, size=16)})
    GenerativeInference.setup_anndata(adata)
    for objective in ("wvae", "ali"):
        model = GenerativeInference(adata, objective, n_latent=3, backbone_kwargs={"n_channels": 2})
        model.train(2, batch_size=16, **CPU)
        running = model.module.generator.norm.running_mean.clone()
        torch.manual_seed(0)
        first = model.sample(3)
        torch.manual_seed(0)
        np.testing.assert_array_equal(model.sample(3), first)
        # standing statistics come and go
        assert (model.module.generator.norm.running_mean == running).all()
        assert model.get_reconstruction().shape == (48, 1, 16, 16)
    model.train(2, batch_size=16, precision="bf16-mixed", **CPU)
    assert np.isfinite(model.sample(2)).all()


def test_default_epochs(images):
    GenerativeInference.setup_anndata(images)
    options = {"n_latent": 3, "backbone": "mlp"}
    assert GenerativeInference(images, "vae", **options)._default_epochs(10) == 100
    # four minibatches an update of the generator
    assert GenerativeInference(images, "aim", **options)._default_epochs(1000) == 300
