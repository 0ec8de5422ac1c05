"""Views: what they do to values, gaps and labels, and that it can be undone."""

from __future__ import annotations

import pytest
import torch
from made_up import minibatch

from mixvi.core.data.keys import VOID
from mixvi.core.maths.mixmatch import valid_mean
from mixvi.satellite.views import Augmentation, Views, fixed_views, orientations

EXACT = Augmentation(shift=3)
WARPED = Augmentation(rotation=30.0, scale=(0.8, 1.3))


def assert_same(one, other):
    for name in ("x", "observed", "frame", "labels"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("size", [(8, 8), (8, 12)])
def test_flips_and_turns_are_those_of_torch(size):
    series = minibatch(size=size)
    expected = {
        (8, 8): [torch.rot90(series.x, k, (-2, -1)) for k in (0, 1, 2, 3)],
        (8, 12): [series.x, series.x.flip(-1), series.x.flip((-2, -1)), series.x.flip(-2)],
    }[size]
    seen = [view.see(series).x for view in fixed_views(4, len(orientations(size)), size, "cpu")]
    assert len(seen) == (8 if size == (8, 8) else 4)
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])
    for image in expected:
        assert sum(torch.equal(image, found) for found in seen) == 1


def test_the_sky_of_photographs_stays_above():
    series = minibatch(n=64)
    seen = Augmentation(turns=False, shift=0, flips="horizontal").views(series).see(series).x
    as_it_is = (seen == series.x).flatten(1).all(1)
    mirrored = (seen == series.x.flip(-1)).flatten(1).all(1)
    assert (as_it_is ^ mirrored).all() and as_it_is.any() and mirrored.any()


@pytest.mark.parametrize("by_date", [False, True])
def test_an_exact_view_is_undone_to_the_bit_within_the_frame(by_date):
    torch.manual_seed(0)
    series = minibatch(n=16, by_date=by_date)
    view = EXACT.views(series)
    back = view.inverse.see(view.see(series))
    came_back = view.inverse.nearest(view.in_frame(), False)
    assert 0.4 < came_back.float().mean() < 1
    inside = came_back[:, None, None].expand_as(series.x)
    assert torch.equal(back.x[inside], series.x[inside])
    assert torch.equal(back.observed[inside], series.observed[inside])
    of_labels = (came_back[:, None] if by_date else came_back).expand_as(series.labels)
    assert torch.equal(back.labels[of_labels], series.labels[of_labels])
    assert not back.observed[~inside].any() and (back.labels[~of_labels] == VOID).all()


def test_without_shifts_nothing_is_lost():
    series = minibatch()
    for view in fixed_views(4, 8, (8, 8), "cpu"):
        assert_same(view.inverse.see(view.see(series)), series)


def test_a_shift_by_hand():
    series = minibatch(n=1, gaps=0.0)
    view = Views(torch.tensor([[[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]]]), (8, 8))
    seen = view.see(series)
    assert torch.equal(seen.x[..., :6, 1:], series.x[..., 2:, :7])
    assert not seen.observed[..., 6:, :].any() and not seen.observed[..., 0].any()
    assert torch.equal(view.in_frame(), seen.observed[:, 0, 0])


def test_the_mean_over_views_of_an_equivariant_model_is_that_of_each():
    """And a pixel that one view of several sees has that view's prediction."""
    torch.manual_seed(0)
    series = minibatch(n=8, gaps=0.0)

    def model(seen):
        return torch.cat([seen.x[:, 0], seen.x[:, 0, :1] * 0], 1).softmax(1)

    views = [EXACT.views(series) for _ in range(3)]
    maps = torch.stack([v.inverse.maps(model(v.see(series))) for v in views])
    valid = torch.stack([v.inverse.nearest(v.in_frame(), False) for v in views])
    mean, seen = valid_mean(maps, valid)
    inside = seen[:, None].expand_as(mean)
    assert (valid.sum(0) == 1).any()
    torch.testing.assert_close(mean[inside], model(series)[inside])


def test_interpolated_views_keep_distributions_and_gaps():
    torch.manual_seed(0)
    series = minibatch(n=16)
    view = WARPED.views(series)
    seen = view.see(series)
    assert not seen.observed[~view.in_frame()[:, None, None].expand_as(seen.observed)].any()
    assert (seen.x[~seen.observed] == 0).all() and 0.2 < seen.observed.float().mean() < 0.9
    maps = view.maps(torch.rand(16, 3, 8, 8).softmax(1))
    torch.testing.assert_close(maps.sum(1), view.in_frame().float())
    # of a constant, what is interpolated from measured values alone is the constant
    flat = series.with_values(torch.full_like(series.x, 3.0), series.observed)
    values = view.see(flat)
    torch.testing.assert_close(
        values.x[values.observed], torch.full_like(values.x[values.observed], 3.0)
    )


def test_light_changes_by_date_and_gaps_only_grow():
    torch.manual_seed(0)
    series = minibatch(n=32, n_dates=4)
    changed = Augmentation(drop_dates=0.5, paste_clouds=0.5).relight(series, torch.zeros(2))
    assert changed.frame.any(1).all() and 0.3 < changed.frame.float().mean() < 0.8
    assert not (changed.observed & ~series.observed).any()
    assert torch.equal(changed.x[changed.observed], series.x[changed.observed])
    dark = torch.tensor([-1.0, -2.0])
    lit = Augmentation(gain=0.1).relight(series, dark)
    factor = (lit.x - dark.view(-1, 1, 1)) / (series.x - dark.view(-1, 1, 1))
    of_date = factor[0, 0][series.observed[0, 0]]
    torch.testing.assert_close(of_date, of_date[:1].expand_as(of_date))


def test_settings_out_of_range():
    for settings, words in (
        ({"shift": -1}, "shift"),
        ({"scale": (2.0, 1.0)}, "scale must be"),
        ({"drop_dates": 1.0}, "drop_dates"),
        ({"paste_clouds": 1.5}, "paste_clouds"),
        ({"flips": "vertical", "turns": False}, "flips must be"),
        ({"flips": "horizontal"}, "pass turns=False"),
    ):
        with pytest.raises(ValueError, match=words):
            Augmentation(**settings)
    with pytest.raises(ValueError, match="there are 4 exact views of tiles of 8 x 12"):
        fixed_views(1, 5, (8, 12), "cpu")


def test_a_shift_of_whole_pixels_may_be_written_as_a_float():
    assert Augmentation(shift=4.0) == Augmentation(shift=4)
    assert isinstance(Augmentation(shift=2.0).shift, int)
