"""U-Nets: shapes, sizes, dates that were not acquired, sides that cannot be halved."""

from __future__ import annotations

import pytest
import torch

from mixvi.satellite.unet import DatePooling, UNet


def n_parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_widths_are_those_of_the_thesis():
    """8,564,488 in its log, of which 3,264 are biases before batch norm, which ours has not."""
    assert n_parameters(UNet(3, 8)) == 8_564_488 - 3_264


ORIGINAL = {"architecture": "ronneberger2015"}


@pytest.mark.parametrize(("n_dates", "places"), [(1, 9), (4, 27)])
def test_widths_are_those_of_the_first_unet(n_dates, places):
    """With one plane and two classes 31,030,658, by figure 1 of Ronneberger et al. 2015."""
    pairs = [(64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    pairs += [(512, 1024), (1024, 1024), (1024, 512), (512, 512), (512, 256), (256, 256)]
    pairs += [(256, 128), (128, 128), (128, 64), (64, 64)]

    def expected(n_planes: int, n_classes: int) -> int:
        convolutions = sum(places * a * b + b for a, b in [(n_planes, 64), *pairs])
        doublings = sum(4 * 2 * w * w + w for w in (512, 256, 128, 64))
        return convolutions + doublings + 64 * n_classes + n_classes

    if n_dates == 1:
        assert expected(1, 2) == 31_030_658
    unet = UNet(9, 5, n_dates, by_date=n_dates > 1, n_levels=4, norm="none", **ORIGINAL)
    assert n_parameters(unet) == expected(9, 5)
    assert unet.n_features == 1024


@pytest.mark.parametrize("n_dates", [1, 4])
@pytest.mark.parametrize("by_date", [False, True])
@pytest.mark.parametrize("dates", ["convolved", "pooled"])
def test_the_first_unet_pools_maxima_and_doubles_by_convolutions(n_dates, by_date, dates):
    if by_date and dates == "pooled":
        return
    options = {"width": 4, "n_levels": 2, "norm": "none", "dates": dates}
    unet = UNet(7, 3, n_dates, by_date, **options, **ORIGINAL)
    planes, frame = torch.randn(2, 7, n_dates, 8, 12), torch.ones(2, n_dates, dtype=torch.bool)
    of_dates = (n_dates,) if by_date else ()
    assert unet(planes, frame).shape == (2, *of_dates, 3, 8, 12)
    assert unet.encode(planes, frame).shape == (2, unet.n_features) == (2, 16)
    x = torch.randn(1, 4, *([] if unet.is_spatial else [3]), 8, 12)
    windows = x.unfold(-2, 2, 2).unfold(-2, 2, 2)
    torch.testing.assert_close(unet.shrink(x), windows.amax((-2, -1)))
    # two transposed convolutions, from the bottom
    assert [(up.in_channels, up.out_channels) for up in unet.enlarge] == [(16, 8), (8, 4)]
    for up in unet.enlarge:
        assert up(torch.randn(1, up.in_channels, *x.shape[2:])).shape[-2:] == (16, 24)


def test_weights_of_the_first_unet_keep_the_variance_of_what_goes_in():
    """He et al. 2015: standard deviations are the root of 2 over the values that are summed."""
    torch.manual_seed(0)
    unet = UNet(7, 3, width=32, n_levels=2, norm="none", **ORIGINAL)
    n_checked = 0
    for module in unet.modules():
        # few weights tell no deviation
        if hasattr(module, "weight") and module.weight.numel() > 1000:
            is_transposed = isinstance(module, torch.nn.ConvTranspose2d)
            n = module.in_channels * (1 if is_transposed else module.kernel_size[0] ** 2)
            assert module.weight.std().item() == pytest.approx((2 / n) ** 0.5, rel=0.05)
            n_checked += 1
    assert n_checked == 12


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("n_dates", [1, 4])
@pytest.mark.parametrize("by_date", [False, True])
def test_shapes(n_dates, by_date, norm):
    unet = UNet(7, 3, n_dates, by_date, width=4, n_levels=2, norm=norm)
    planes, frame = torch.randn(2, 7, n_dates, 8, 12), torch.ones(2, n_dates, dtype=torch.bool)
    dates = (n_dates,) if by_date else ()
    assert unet(planes, frame).shape == (2, *dates, 3, 8, 12)
    assert unet.encode(planes, frame).shape == (2, unet.n_features) == (2, 8)


def test_a_map_sees_no_date_without_acquisition():
    """The head's weights of the dates sum to one over those acquired."""
    unet = UNet(7, 3, 3, width=4, n_levels=1).eval()
    frame = torch.tensor([[True, False, True]])
    seen = []
    unet.attention.register_forward_hook(lambda *call: seen.append(call[2]))
    unet.classes.register_forward_hook(lambda *call: seen.append(call[1][0]))
    features = []
    unet.up[-1].register_forward_hook(lambda *call: features.append(call[2]))
    unet(torch.randn(1, 7, 3, 8, 8), frame)
    scores, pooled = seen
    weights = scores[:, :, [0, 2]].softmax(2)
    torch.testing.assert_close(pooled, (weights * features[0][:, :, [0, 2]]).sum(2, keepdim=True))


def test_a_pooled_series_is_the_mean_of_the_dates_that_a_pixel_was_observed_on():
    """By equal scores; of all acquired dates where it never was."""
    pooling = DatePooling(7, 5, n_heads=2)
    for parameter in pooling.scores.parameters():
        torch.nn.init.zeros_(parameter)
    planes, frame = torch.randn(1, 7, 3, 1, 2), torch.tensor([[True, True, False]])
    # the third and fourth plane say whether the two bands were observed
    planes[:, 2:4] = 0
    planes[:, 3, 1, 0, 0] = 1
    features = pooling.features(planes.flatten(3), frame)[0]
    once, never = pooling(planes, frame)[0, :, 0, 0].unflatten(0, (2, 5)).unbind(-1)
    torch.testing.assert_close(once, features[:, 1, 0].expand(2, 5))
    torch.testing.assert_close(never, features[:, :2, 1].mean(1).expand(2, 5))


def test_of_pooled_series_the_own_course_of_a_pixel_counts_beside_the_network():
    unet = UNet(7, 3, 4, width=4, n_levels=2, dates="pooled")
    torch.nn.init.zeros_(unet.classes.weight)
    torch.nn.init.zeros_(unet.classes.bias)
    planes, frame = torch.randn(2, 7, 4, 8, 12), torch.ones(2, 4, dtype=torch.bool)
    logits = unet(planes, frame)
    assert logits.shape == (2, 3, 8, 12)
    assert unet.encode(planes, frame).shape == (2, unet.n_features)
    # a pixel by itself has the same
    alone = unet.of_pixels(unet.pooling(planes[..., :1, :1], frame).squeeze(2))
    torch.testing.assert_close(logits[..., :1, :1], alone)


def test_pooled_dates_give_no_map_a_date():
    with pytest.raises(ValueError, match="dates='pooled' makes one map"):
        UNet(7, 3, 4, by_date=True, dates="pooled")


def test_sides_that_cannot_be_halved():
    unet = UNet(7, 3, width=4, n_levels=3)
    with pytest.raises(ValueError, match=r"multiples of 8.*pad them to 16 x 8"):
        unet(torch.randn(1, 7, 1, 12, 8), torch.ones(1, 1, dtype=torch.bool))


def test_images_are_no_series():
    unet = UNet(7, 3, width=4)
    with pytest.raises(ValueError, match="have 3 dates"):
        unet(torch.randn(1, 7, 3, 8, 8), torch.ones(1, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    "setting",
    [{"width": 0}, {"n_levels": 0}, {"norm": "layer"}, {"dates": "all"}, {"architecture": "2015"}],
)
def test_unusable_settings(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        UNet(7, 3, **setting)
