"""Views of tissue tiles.

1. The eight ways to lay a square down are exact permutations of its pixels, each as likely as it should be.
2. The policy is its operations one after the other, keeps the stain's color and can be switched off piece by piece.
"""

import inspect

import pytest
import torch
from scipy import stats
from torchvision.transforms.v2 import functional as reference

from pipeline.errors import ParamsError
from pipeline.params import arguments
from stages.views import _operations as op
from stages.views import _random as rnd
from stages.views import histology, simclr
from stages.views._draws import Draws, Source
from stages.views._operations import Pixels, Symmetry
from stages.views._steps import Step

CROP = {"scale": [0.2, 1.0], "ratio": [0.75, 1.3333], "interpolation": "bilinear"}
WHOLE = {"scale": [1.0, 1.0], "ratio": [1.0, 1.0], "interpolation": "bilinear"}
JITTER = {"probability": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
BLUR = {"probability": 0.5, "kernel": 3, "sigma": [0.1, 2.0]}
TISSUE = {"crop": CROP, "flip": 0.5, "vertical_flip": 0.5, "quarter_turns": True, "jitter": JITTER, "blur": BLUR}
STILL = {"crop": WHOLE, "jitter": JITTER | {"probability": 0.0}, "blur": BLUR | {"probability": 0.0}}


def pixels(count, size=16):
    shape = (count, size, size, 3)
    return Pixels(torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)), None)


def source(count):
    return Source(seed=0, epoch=0, index=torch.arange(count))


def views(values, images, size=16):
    found = arguments(histology.make_views, values, "runs.a.views")
    return histology.make_views(images, source(len(images.values)), size, **found)


def every_way(count):
    """`count` images in each of the eight ways."""
    quarters, upside_down = torch.arange(8) % 4, torch.arange(8) >= 4
    return Symmetry(quarters.repeat_interleave(count), upside_down.repeat_interleave(count))


# 1. permutations


@pytest.mark.parametrize("size", [1, 2, 7, 32])
def test_quarter_turns_are_torchs_rotations(size):
    """Image by image a turn is torch.rot90, then a vertical flip torchvision's, to the bit."""
    images, ways = op.as_floats(pixels(3, size).values).repeat(8, 1, 1, 1), every_way(3)
    turned = op.turn(images, ways)
    for image, view, quarters, flipped in zip(images, turned, *(part.tolist() for part in ways), strict=True):
        expected = image.rot90(quarters, (1, 2))
        assert torch.equal(view, reference.vertical_flip(expected) if flipped else expected)


def test_a_turn_only_moves_pixels():
    """Each way keeps every pixel, color by color; the eight ways differ, and four quarter turns are none."""
    images = op.as_floats(pixels(1, 8).values)
    turned = op.turn(images.expand(8, -1, -1, -1), every_way(1))
    colors = turned.flatten(2).mT.reshape(8, 64, 3)
    for view in colors:
        assert sorted(map(tuple, view.tolist())) == sorted(map(tuple, colors[0].tolist()))
    assert len({tuple(view.flatten().tolist()) for view in turned}) == 8
    once = Symmetry(torch.tensor([1]), torch.tensor([False]))
    again = images
    for _ in range(4):
        again = op.turn(again, once)
    assert torch.equal(again, images)


def test_turns_are_equally_likely():
    """A quarter of the views is turned by each angle, and the vertical flip keeps its own probability."""
    symmetry = rnd.draw_symmetry(Draws(0, 0, 0, torch.arange(8000)), True, 0.3)
    assert stats.chisquare(symmetry.quarters.bincount(minlength=4)).pvalue > 0.01
    assert stats.binomtest(int(symmetry.upside_down.sum()), 8000, 0.3).pvalue > 0.01


def test_turns_that_are_off_turn_nothing():
    """Without quarter turns and vertical flips there is no such step; with one of them only that is done."""
    draws = Draws(0, 0, 0, torch.arange(100))
    assert rnd.random_turn(draws, False, 0.0) is None
    assert not rnd.draw_symmetry(draws, False, 0.5).quarters.any()
    assert not rnd.draw_symmetry(draws, True, 0.0).upside_down.any()
    for settings in ((True, 0.0), (False, 0.5)):
        step = rnd.random_turn(draws, *settings)
        assert isinstance(step, Step)
        assert step.where.any()


# 2. the policy


def test_histology_is_its_operations_one_after_the_other():
    """The views are the crop, the turn, the jitter and the blur, with the parameters in the order they are drawn."""
    found = arguments(histology.make_views, TISSUE, "runs.a.views")
    images, draws = pixels(6, 32), source(6).views(2, first=0)
    box = rnd.draw_box(draws, found["crop"], images.whole(views=2), 0.5)
    symmetry = rnd.draw_symmetry(draws, True, 0.5)
    factors, sigma = rnd.draw_factors(draws, found["jitter"]), rnd.draw_sigma(draws, found["blur"], [0.5])
    expected = op.turn(op.resample(op.as_floats(images.values), box, 24, "bilinear"), symmetry)
    expected = op.gaussian_blur(op.color_jitter(expected, factors), sigma, 3)
    assert torch.equal(torch.cat(views(TISSUE, images, 24)), expected)


def test_views_of_a_still_tile_are_the_tile_laid_down_anyhow():
    """With crop, jitter and blur off a view is one of the image's eight symmetries, and all eight occur."""
    images = pixels(200)
    ways = op.turn(op.as_floats(images.values[:1]).expand(8, -1, -1, -1), every_way(1))
    seen = set()
    for view in views(TISSUE | STILL, Pixels(images.values[:1].expand(200, -1, -1, -1), None)):
        same = (view[:, None] == ways).flatten(2).all(dim=2)
        assert same.any(dim=1).all()
        seen |= set(same.int().argmax(dim=1).tolist())
    assert seen == set(range(8))


def test_without_turns_the_views_of_a_tile_are_upright():
    """All switches off leave the tile as it is."""
    off = STILL | {"flip": 0.0, "vertical_flip": 0.0, "quarter_turns": False}
    images = pixels(5)
    for view in views(off, images):
        assert torch.equal(view, op.as_floats(images.values))


def test_nothing_turns_gray():
    """The policy has no grayscale to switch on, and strong jitter leaves no colored tile gray."""
    assert "grayscale" not in inspect.signature(histology.make_views).parameters
    assert "grayscale" in inspect.signature(simclr.make_views).parameters
    with pytest.raises(ParamsError, match="unknown key 'grayscale'"):
        arguments(histology.make_views, TISSUE | {"grayscale": 0.2}, "runs.a.views")
    stained = torch.tensor([200, 60, 160], dtype=torch.uint8).expand(100, 16, 16, 3)
    jitter = JITTER | {"probability": 1.0, "saturation": 0.8}
    for view in views(TISSUE | {"jitter": jitter}, Pixels(stained, None)):
        low, high = view.amin(dim=1), view.amax(dim=1)
        assert ((high - low).amax(dim=(1, 2)) > 0.005).all()
