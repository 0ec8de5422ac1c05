from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mixvi.core.maths.spectral import ConditionalBatchNorm
from mixvi.images.backbones import make_backbone
from mixvi.images.blocks import DownBlock, UpBlock, standing_statistics


def n_weights(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("shape", "n_latent", "n_channels", "counts"),
    [
        ((1, 32, 32), 10, 32, (974_337, 1_389_588, 1_051_265)),
        ((3, 32, 32), 128, 96, (9_801_987, 12_796_672, 9_452_929)),
    ],
)
def test_chapter_6_has_the_thesis_sizes(shape, n_latent, n_channels, counts):
    made = make_backbone("resnet", shape, n_latent, {"n_channels": n_channels})
    networks = made.generator(), made.encoder(), made.image_critic()
    assert tuple(map(n_weights, networks)) == counts


def test_burgess_has_the_sizes_of_mushom_s_table_5_2():
    made = make_backbone("burgess", (1, 64, 64), 10)
    assert (n_weights(made.encoder()), n_weights(made.generator())) == (252_052, 249_953)


def test_burgess_starts_with_outputs_as_wide_as_inputs():
    torch.manual_seed(0)
    made = make_backbone("burgess", (1, 64, 64), 10)
    x = torch.randn(64, 1, 64, 64)
    for layer in made.encoder().body:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            assert 0.3 < x.square().mean() < 3.0


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("resnet", (1, 32, 32), {"n_channels": 2}),
        ("resnet", (3, 16, 48), {"n_channels": 2, "upsampling": "nearest"}),
        ("conv", (3, 28, 28), {"n_channels": 2}),
        ("burgess", (3, 32, 16), {"n_channels": 4, "n_hidden": 8}),
        ("mlp", (1, 7, 5), {"n_hidden": 8, "n_layers": 1}),
    ],
)
def test_networks_fit_together(name, shape, options):
    made = make_backbone(name, shape, 4, options)
    x, z = torch.rand(3, *shape) * 2 - 1, torch.randn(3, 4)
    mu, log_var = made.encoder()(x)
    assert mu.shape == log_var.shape == (3, 4)
    generated = made.generator()(z)
    assert generated.shape == x.shape and generated.abs().max() <= 1
    critics = made.pair_critics()
    of_x = critics["image_critic"].features(x)
    of_z = critics["latent_critic"].features(z)
    scores = critics["pair_critic"](torch.cat([of_x, of_z], dim=1))
    assert scores.shape == critics["image_critic"](x).shape == critics["latent_critic"](z).shape
    assert scores.shape == (3,)
    assert made.image_critic(2 * shape[0])(torch.cat([x, x], dim=1)).shape == (3,)


def test_critic_features_have_the_thesis_sizes():
    critics = make_backbone("resnet", (1, 32, 32), 10, {"n_channels": 4}).pair_critics()
    assert critics["image_critic"].n_features == 16
    assert critics["latent_critic"].n_features == 32
    assert critics["pair_critic"].body.linear1.in_features == 48


def test_weights_have_spectral_norm_one():
    made = make_backbone("resnet", (1, 32, 32), 4, {"n_channels": 2})
    for network in (made.encoder(), made.generator(), made.image_critic(), made.latent_critic()):
        layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        assert layers
        for layer in layers:
            norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
            # power iterations see the norm from below
            assert 0.999 < float(norm) < 1.2


def test_conditional_batch_norm():
    torch.manual_seed(0)
    norm = ConditionalBatchNorm(3, 2, spectral=False)
    h, z = torch.randn(5, 3, 4, 4), torch.randn(5, 2)
    gain = 1 + z @ norm.gain.weight.T
    bias = z @ norm.bias.weight.T
    expected = gain[..., None, None] * F.batch_norm(h, None, None, training=True)
    torch.testing.assert_close(norm(h, z), expected + bias[..., None, None])


def test_shortcuts_do_what_the_tables_say():
    """Doubling before, pooling after the 1 x 1 convolution; ours is the cheaper order."""
    h, z = torch.randn(2, 3, 8, 8), torch.randn(2, 2)
    for upsampling in ("bilinear", "nearest"):
        up = UpBlock(3, 5, 2, upsampling).eval()

        def double(features, mode=upsampling):
            return F.interpolate(features, scale_factor=2, mode=mode)

        main = up.conv1(double(F.relu(up.norm1(h, z))))
        main = up.conv2(F.relu(up.norm2(main, z)))
        torch.testing.assert_close(up(h, z), main + up.shortcut(double(h)))
    down = DownBlock(3, 5).eval()
    main = down.conv2(F.relu(down.conv1(F.relu(h))))
    torch.testing.assert_close(down(h), F.avg_pool2d(main, 2) + F.avg_pool2d(down.shortcut(h), 2))


def test_standing_statistics_are_of_the_draws_and_pass():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(2, affine=False).eval()
    norm.running_mean.fill_(7.0)
    draws = [torch.randn(64, 2, 4, 4) + 3 for _ in range(4)]
    given = iter(draws)
    with standing_statistics(norm, lambda: (next(given),), n_passes=4):
        mean = torch.stack([x.mean((0, 2, 3)) for x in draws]).mean(0)
        torch.testing.assert_close(norm.running_mean, mean)
        assert not norm.training
    assert (norm.running_mean == 7.0).all() and norm.momentum == 0.1


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("resnet", (1, 28, 28), None, "multiples of 16, but are 28 x 28.*32 x 32"),
        ("conv", (1, 30, 28), None, "multiples of 4, but are 30 x 28.*32 x 28"),
        ("resnet18", (1, 32, 32), None, "backbone='resnet18' is not known.*'resnet'"),
        ("conv", (1, 28, 28), {"n_chanels": 3}, "no option 'n_chanels'.*'n_channels'"),
        ("resnet", (1, 32, 32), {"upsampling": "cubic"}, "upsampling='cubic' is not known"),
        ("mlp", (1, 32, 32), {"n_hidden": 0}, "n_hidden must be a positive whole number"),
    ],
)
def test_unsuitable_backbones(name, shape, options, message):
    with pytest.raises(ValueError, match=message):
        make_backbone(name, shape, 4, options)
