"""Views.

1. A policy gives each image its own views, the same in any batch, in [0, 1], without waiting for the device.
2. A neutral block leaves images as they are, and switching an operation off leaves the others' draws as they were.
3. What params.yaml must not say is refused in one sentence.
"""

import pytest
import torch

from pipeline.errors import ParamsError
from pipeline.params import arguments
from stages.views import _operations as op
from stages.views import _random as rnd
from stages.views import identity, simclr, weak
from stages.views._draws import Source

CROP = rnd.Crop(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation="bicubic")
WHOLE = rnd.Crop(scale=(1.0, 1.0), ratio=(1.0, 1.0), interpolation="bicubic")
JITTER = rnd.Jitter(probability=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
NO_JITTER = rnd.Jitter(probability=0.0, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
BLUR = rnd.Blur(probability=0.5, kernel=3, sigma=(0.1, 2.0))
NO_BLUR = rnd.Blur(probability=0.0, kernel=3, sigma=(0.1, 2.0))
SIMCLR = {"crop": CROP, "flip": 0.5, "rotation": 10.0, "jitter": JITTER, "grayscale": 0.2, "blur": BLUR}
NEUTRAL = {"crop": WHOLE, "flip": 0.0, "rotation": 0.0, "jitter": NO_JITTER, "grayscale": 0.0, "blur": NO_BLUR}


def pixels(count, size=32):
    shape = (count, size, size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def source(count, epoch=0):
    return Source(seed=0, epoch=epoch, index=torch.arange(count))


# 1. policies


def policies():
    return [
        pytest.param(simclr.make_views, SIMCLR, 2, id="simclr"),
        pytest.param(weak.make_views, {"crop": CROP, "flip": 0.5, "rotation": 10.0}, 1, id="weak"),
        pytest.param(weak.make_views, {"crop": rnd.Shift(padding=4), "flip": 0.5, "rotation": 0.0}, 1, id="shift"),
        pytest.param(identity.make_views, {}, 1, id="identity"),
    ]


@pytest.mark.parametrize(("make_views", "policy", "count"), policies())
def test_views_are_float_images_in_range(make_views, policy, count):
    """Each view is float32 (n, 3, size, size), channels last, in [0, 1], even from black, white and pure colors."""
    images = pixels(12, 40)
    images[:6] = (images[:6] > 127) * 255
    views = make_views(images, source(12), 24, **policy)
    assert len(views) == count
    for view in views:
        assert view.shape == (12, 3, 24, 24)
        assert view.dtype == torch.float32
        assert view.is_contiguous(memory_format=torch.channels_last)
        assert 0 <= view.min() < view.max() <= 1


@pytest.mark.parametrize(("make_views", "policy", "count"), policies())
def test_views_of_an_image_do_not_depend_on_its_batch(make_views, policy, count, monkeypatch):
    """Shuffled, alone, or in pieces, an image has the same views."""
    images, index, order = pixels(7), torch.arange(100, 107), torch.tensor([2, 6, 0, 5, 1, 4, 3])
    whole = make_views(images, Source(0, 0, index), 32, **policy)
    shuffled = make_views(images[order], Source(0, 0, index[order]), 32, **policy)
    alone = make_views(images[3:4], Source(0, 0, index[3:4]), 32, **policy)
    monkeypatch.setattr(op, "PIECE", 3 * 32 * 32 * 2)
    pieces = make_views(images, Source(0, 0, index), 32, **policy)
    for view in range(count):
        torch.testing.assert_close(shuffled[view], whole[view][order])
        torch.testing.assert_close(alone[view], whole[view][3:4])
        torch.testing.assert_close(pieces[view], whole[view])
        assert pieces[view].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("make_views", "policy", "count"), policies())
def test_views_never_wait_for_the_device(make_views, policy, count):
    """Views can be planned on a device without memory, so nothing asks for a drawn value or leaves the device."""
    images = pixels(5).to("meta")
    views = make_views(images, Source(0, 0, torch.arange(5).to("meta")), 16, **policy)
    assert [view.device.type for view in views] == ["meta"] * count


def test_views_are_repeatable_and_differ():
    """The same seed and epoch give the same bits; two views, two images and two epochs differ."""
    images = pixels(1).expand(4, -1, -1, -1)
    first, second = simclr.make_views(images, source(4), 32, **SIMCLR)
    again, _ = simclr.make_views(images, source(4), 32, **SIMCLR)
    later, _ = simclr.make_views(images, source(4, epoch=1), 32, **SIMCLR)
    assert torch.equal(first, again)
    for other in (second, later, first.roll(1, 0)):
        assert ((first - other).abs().amax(dim=(1, 2, 3)) > 0.01).all()


def test_simclr_is_its_operations_one_after_the_other():
    """The policy's views are those of torchvision's operations, in the paper's order, with the drawn parameters."""
    images, draws = pixels(6), source(6).views(2)
    box = rnd.draw_box(draws, CROP, 32, 32, 0.5)
    draws.uniform(0, 0)  # the angle, drawn though nothing turns
    factors, gray, sigma = rnd.draw_factors(draws, JITTER), draws.bernoulli(0.2), rnd.draw_sigma(draws, BLUR)
    expected = op.resample(op.as_floats(images, views=2), box, 32, "bicubic")
    expected = op.gaussian_blur(op.grayscale(op.color_jitter(expected, factors), gray), 3, sigma)
    views = simclr.make_views(images, source(6), 32, **(SIMCLR | {"rotation": 0.0}))
    assert torch.equal(torch.cat(views), expected)


# 2. neutral


@pytest.mark.parametrize("size", [16, 32])
def test_neutral_blocks_change_nothing(size):
    """With every operation off, both views are the image, resized."""
    images = pixels(6)
    [plain] = identity.make_views(images, source(6), size)
    for view in simclr.make_views(images, source(6), 32, **NEUTRAL):
        assert torch.equal(view, op.as_floats(images))
    [view] = weak.make_views(images, source(6), size, crop=rnd.Shift(padding=0), flip=0.0, rotation=0.0)
    assert torch.equal(view, plain)


@pytest.mark.parametrize("off", ["rotation", "jitter", "grayscale"])
def test_switching_an_operation_off_keeps_the_others_draws(off):
    """The blur after an operation is the same whether that operation is on or off."""
    images = torch.full((8, 32, 32, 3), 128, dtype=torch.uint8)
    images[:, 16:, 16:] = 0
    plain = NEUTRAL | {"blur": BLUR}
    barely = {
        "rotation": 1e-4,
        "jitter": rnd.Jitter(probability=1.0, brightness=1e-5, contrast=1e-5, saturation=1e-5, hue=1e-5),
        "grayscale": 1.0,
    }
    views = simclr.make_views(images, source(8), 32, **plain)
    others = simclr.make_views(images, source(8), 32, **(plain | {off: barely[off]}))
    torch.testing.assert_close(others, views, atol=1e-3, rtol=0)


# 3. refusals

VALUES = {
    "crop": {"scale": [0.08, 1.0], "ratio": [0.75, 1.33], "interpolation": "bicubic"},
    "flip": 0.5,
    "rotation": 0.0,
    "jitter": {"probability": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    "grayscale": 0.2,
    "blur": {"probability": 0.5, "kernel": 3, "sigma": [0.1, 2.0]},
}


def test_what_params_yaml_says_reaches_the_policy():
    """Lists and numbers of params.yaml become the blocks that the policy takes."""
    accepted = arguments(simclr.make_views, VALUES, "runs.simclr.views")
    assert accepted["crop"] == rnd.Crop(scale=(0.08, 1.0), ratio=(0.75, 1.33), interpolation="bicubic")
    assert [view.shape for view in simclr.make_views(pixels(2), source(2), 32, **accepted)] == [(2, 3, 32, 32)] * 2


@pytest.mark.parametrize(
    ("block", "key", "value", "says"),
    [
        ("crop", "scale", [1.0, 0.08], "the low end 1.0 lies above the high end 0.08"),
        ("crop", "scale", [0.5, 1.5], "less than or equal to 1"),
        ("crop", "ratio", [0.0, 1.0], "greater than 0"),
        ("crop", "interpolation", "nearest", "'bilinear' or 'bicubic'"),
        ("jitter", "probability", 1.2, "less than or equal to 1"),
        ("jitter", "brightness", -0.1, "greater than or equal to 0"),
        ("jitter", "hue", 0.7, "less than or equal to 0.5"),
        ("blur", "kernel", 4, "its size is odd: 3 or 5, not 4"),
        ("blur", "sigma", [0.0, 2.0], "greater than 0"),
    ],
)
def test_wrong_values_are_refused_in_one_sentence(block, key, value, says):
    """A wrong value is named with its place and what would be right."""
    values = VALUES | {block: VALUES[block] | {key: value}}
    with pytest.raises(ParamsError) as refusal:
        arguments(simclr.make_views, values, "runs.simclr.views")
    sentence = str(refusal.value)
    assert f"runs.simclr.views.{block}.{key}" in sentence
    assert says in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("crop", "says"),
    [
        ({"padding": -1}, "greater than or equal to 0, not -1"),
        ({"padding": 4, "scale": [0.2, 1.0]}, "unknown key 'scale'"),
        ({"scale": [1.0, 0.2], "ratio": [1.0, 1.0], "interpolation": "bilinear"}, "lies above the high end 0.2"),
    ],
)
def test_a_wrong_crop_is_refused_as_the_kind_that_was_meant(crop, says):
    """Of the two kinds of crop only the one that was meant complains."""
    with pytest.raises(ParamsError) as refusal:
        arguments(weak.make_views, {"crop": crop, "flip": 0.5, "rotation": 0.0}, "runs.supervised.views")
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_blur_wider_than_the_view_is_refused():
    """A kernel that reaches beyond what reflection can give is a sentence, not a wrong picture."""
    blur = rnd.Blur(probability=1.0, kernel=17, sigma=(1.0, 1.0))
    with pytest.raises(ParamsError, match="17 pixels reaches beyond what a view of 8 × 8 can reflect"):
        simclr.make_views(pixels(4), source(4), 8, **(SIMCLR | {"blur": blur}))


@pytest.mark.parametrize("images", [torch.zeros(4, 32, 32, 3), torch.zeros(4, 3, 32, 32, dtype=torch.uint8)])
def test_other_images_are_refused(images):
    """Float images and channels-first images are refused with what would be right."""
    with pytest.raises(TypeError, match=r"images must be torch.uint8 of shape \(n, h, w, 3\), not torch"):
        identity.make_views(images, source(4), 32)


def test_every_image_needs_an_index():
    """A batch and indices of different lengths are refused."""
    with pytest.raises(ValueError, match="4 images need as many indices, not 3"):
        identity.make_views(pixels(4), source(3), 32)
