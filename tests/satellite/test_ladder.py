"""The table of a hierarchy, and the networks that are made of it."""

from __future__ import annotations

import pytest
import torch

from mixvi.core.maths.exponential_families import Bernoulli, Gaussian
from mixvi.satellite.ladder import LAYERS, children, resolve_layers
from mixvi.satellite.ladder_encoder import Encoder
from mixvi.satellite.ladder_networks import Convolutions, Decoder, Top

OF_IMAGES = Convolutions((1, 3, 3))
OF_SERIES = Convolutions((3, 3, 3))


def n_parameters(network: torch.nn.Module) -> int:
    """Without the local skips, as the thesis's configuration counts them."""
    return sum(p.numel() for name, p in network.named_parameters() if "skip" not in name)


def test_networks_of_the_thesis_have_its_numbers_of_parameters():
    table = resolve_layers("thesis")
    decoder = Decoder(table, 8 + 120, 3, Bernoulli, Gaussian, OF_IMAGES, variance="pixel")
    encoder = Encoder(table, 3, 8, (120, 0, 0), 1, 1, False, OF_IMAGES)
    assert n_parameters(decoder) == 7_380_038
    assert n_parameters(encoder) == 7_046_592


def test_a_skip_of_the_decoder_has_its_mirror_image_in_the_encoder():
    table = resolve_layers("thesis")
    assert [children(table, t) for t in (1, 2, 4, 7)] == [(2,), (3, 8), (5, 6), (8,)]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("n_dates", [1, 3])
def test_shapes_of_evidence_are_those_of_the_layers(name, n_dates):
    table = resolve_layers(name, width=0.25)
    convolutions = OF_IMAGES if n_dates == 1 else OF_SERIES
    encoder = Encoder(table, 7, 4, (6, 2, 5), 1, 1, False, convolutions)
    frame = torch.ones(2, n_dates, dtype=torch.bool)
    raw = encoder(torch.randn(2, 7, n_dates, 16, 8), frame)
    assert raw["segmentation"].shape == (2, 4, 1, 16, 8)
    assert raw["code"].shape == (2, 6)
    assert raw["date_code"].shape == (2, 2, n_dates)
    assert raw["place_code"].shape == (2, 5, 1, 16, 8)
    for t, layer in enumerate(table[:-1], start=1):
        size = (16 // layer.scale, 8 // layer.scale)
        assert raw[f"z{t}"].shape == (2, layer.n_channels, n_dates, *size)


def test_dates_without_an_acquisition_have_no_say_in_map_and_code():
    encoder = Encoder(resolve_layers("light", 0.25), 7, 4, (6, 0, 0), 1, 1, False, OF_SERIES)
    # one convolution sees the date before and after; the last date is far from the first
    core = torch.randn(1, encoder.attention.in_channels, 4, 8, 8)
    other = core.clone()
    other[:, :, 3] += 5.0
    frame = torch.tensor([[True, True, True, False]])
    counted = frame[:, None, :, None, None]
    torch.testing.assert_close(encoder.pooled(core, counted), encoder.pooled(other, counted))


@pytest.mark.parametrize("variance", ["band", "pixel"])
@pytest.mark.parametrize("value", [-3.0, 3.0])
def test_the_image_head_reaches_three_deviations_and_little_noise(variance, value):
    table = resolve_layers([{"scale": 1, "parents": [0], "hidden": []}])
    decoder = Decoder(table, 2, 2, Bernoulli, Gaussian, OF_IMAGES, variance)
    last = decoder.blocks[-1].body[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(value)
        if variance == "band":
            decoder.log_var.fill_(-6.0)
        else:
            last.bias[2:] = -6.0
    image = decoder.image(Top(torch.zeros(1, 2, 1, 4, 4), torch.zeros(1, 0, 1)), [])
    torch.testing.assert_close(image.mean, torch.full_like(image.mean, value))
    assert (image.variance.sqrt() < 0.1).all()


ROW = {"n_channels": 4, "scale": 1, "parents": [0], "hidden": []}
IMAGE = {"scale": 1, "parents": [1], "hidden": []}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("lite", "Did you mean 'light'"),
        ([ROW | {"scale": 2}], "of scale 1"),
        ([ROW | {"width": 3}, IMAGE], "row 1 has no option 'width'"),
        ([{"n_channels": 4}], "row 1 has no scale and no parents and no hidden"),
        ([ROW, IMAGE | {"parents": [2]}], "one must be 1"),
        ([ROW, IMAGE | {"kernel": 2}], "kernel of row 2 must be 1 or 3"),
        ([ROW, IMAGE | {"parents": [1, 0]}], "Row 1 alone"),
        ([ROW | {"scale": 3}, ROW | {"parents": [1], "scale": 2}, IMAGE | {"parents": [2]}], "3"),
        ([ROW, ROW | {"parents": [1], "scale": 2}, IMAGE | {"parents": [2, 1]}], "several scales"),
    ],
)
def test_tables_that_do_not_fit_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        resolve_layers(layers)


def test_width_scales_channels_and_spares_the_image():
    table = resolve_layers("light", width=0.5)
    assert [layer.n_channels for layer in table] == [8, 12, 8, 0]
    assert table[2].hidden == (16,)
