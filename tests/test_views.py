"""Views.

1. Every policy gives each image its own views, the same in any batch and on any canvas, in [0, 1], without waiting for
   the device.
2. SimCLR's views are its operations one after the other; BYOL's and SwAV's are SimCLR's but for what they change.
3. A neutral block leaves images as they are, and switching an operation off leaves the others' draws as they were.
4. What params.yaml must not say is refused in one sentence.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import plugins
from pipeline.errors import ParamsError
from pipeline.params import arguments
from stages.views import _operations as op
from stages.views import _random as rnd
from stages.views import _steps, byol, identity, multicrop, simclr, weak
from stages.views._draws import Source
from stages.views._operations import Pixels

CROP = {"scale": [0.08, 1.0], "ratio": [0.75, 1.3333], "interpolation": "bicubic"}
SMALL_CROP = {"scale": [0.05, 0.3], "ratio": [0.75, 1.3333], "interpolation": "bilinear"}
JITTER = {"probability": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
KERNEL = {"kernel": 3, "sigma": [0.1, 2.0]}
BLUR = KERNEL | {"probability": 0.5}
COLORS = {"rotation": 10.0, "jitter": JITTER, "grayscale": 0.2}
UNEQUAL = {"blur": KERNEL | {"probability": [1.0, 0.1]}, "solarize": {"probability": [0.0, 0.2], "threshold": 0.5}}
CROPS = {"large": {"views": 2, "crop": CROP}, "small": {"views": 3, "side": 8, "crop": SMALL_CROP}}
TISSUE = {"crop": CROP, "flip": 0.5, "vertical_flip": 0.5, "quarter_turns": True, "jitter": JITTER, "blur": BLUR}
STRONG = {"operations": 2, "magnitude": 1.0, "cutout": 0.5}
# policy → what params.yaml may say of it, and the sides of the views that come of it (None: the size asked for)
SETTINGS = {
    "byol": [({"crop": CROP, "flip": 0.5} | COLORS | UNEQUAL, [None, None])],
    "histology": [(TISSUE, [None, None])],
    "identity": [({}, [None])],
    "multicrop": [({"flip": 0.5, "blur": BLUR} | COLORS | CROPS, [None, None, 8, 8, 8])],
    "simclr": [({"crop": CROP, "flip": 0.5, "blur": BLUR} | COLORS, [None, None])],
    "weak": [
        ({"crop": CROP, "flip": 0.5, "rotation": 10.0}, [None]),
        ({"crop": {"padding": 4}, "flip": 0.5, "rotation": 0.0}, [None]),
    ],
    "weak_strong": [
        ({"roles": ["weak", "strong"], "crop": CROP, "flip": 0.5, "rotation": 10.0} | STRONG, [None, None])
    ],
}
SIMCLR = SETTINGS["simclr"][0][0]
NEUTRAL = {
    "crop": {"scale": [1.0, 1.0], "ratio": [1.0, 1.0], "interpolation": "bicubic"},
    "flip": 0.0,
    "rotation": 0.0,
    "jitter": JITTER | {"probability": 0.0},
    "grayscale": 0.0,
    "blur": BLUR | {"probability": 0.0},
}


def pixels(count, height=32, width=32):
    shape = (count, height, width, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def source(count, epoch=0):
    return Source(seed=0, epoch=epoch, index=torch.arange(count))


def bound(policy, values):
    """`make_views` of a policy, with its arguments as params.yaml gives them."""
    found = arguments(policy.make_views, values, "runs.a.views")
    return lambda images, source, size: policy.make_views(
        images if isinstance(images, Pixels) else Pixels(images, None), source, size, **found
    )


# 1. every policy


def policies():
    """Every file of stages/views, found by folder: its views under each of its settings, and their sides."""
    modules = {name: plugins.load("views", name) for name in plugins.names("views")}
    return [
        pytest.param(make_views, values, sides, id=f"{name}-{number}" if number else name)
        for name, make_views in modules.items()
        for number, (values, sides) in enumerate(SETTINGS[name])
    ]


every_policy = pytest.mark.parametrize(("make_views", "values", "sides"), policies())


def views_of(make_views, values):
    found = arguments(make_views, values, "runs.a.views")
    return lambda images, source, size: make_views(images, source, size, **found)


@every_policy
def test_views_are_float_images_in_range(make_views, values, sides):
    """Each view is float32 (n, 3, size, size), channels last, in [0, 1], even from black, white and pure colors."""
    images = pixels(12, 40, 40)
    images[:6] = (images[:6] > 127) * 255
    views = views_of(make_views, values)(Pixels(images, None), source(12), 24)
    assert [view.shape for view in views] == [(12, 3, side or 24, side or 24) for side in sides]
    for view in views:
        assert view.dtype == torch.float32
        assert view.is_contiguous(memory_format=torch.channels_last)
        assert 0 <= view.min() < view.max() <= 1


@every_policy
def test_views_of_an_image_do_not_depend_on_its_batch(make_views, values, sides, monkeypatch):
    """Shuffled, alone, or in pieces, an image has the same views."""
    images, index, order = pixels(7), torch.arange(100, 107), torch.tensor([2, 6, 0, 5, 1, 4, 3])
    make = views_of(make_views, values)
    whole = make(Pixels(images, None), Source(0, 0, index), 32)
    shuffled = make(Pixels(images[order], None), Source(0, 0, index[order]), 32)
    alone = make(Pixels(images[3:4], None), Source(0, 0, index[3:4]), 32)
    monkeypatch.setattr(_steps, "PIECE", len(sides) * 3 * 32 * 32 * 2)
    pieces = make(Pixels(images, None), Source(0, 0, index), 32)
    for view, part in enumerate(whole):
        torch.testing.assert_close(shuffled[view], part[order], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone[view], part[3:4], rtol=0, atol=1e-5)
        torch.testing.assert_close(pieces[view], part, rtol=0, atol=1e-5)


@every_policy
def test_views_never_wait_for_the_device(make_views, values, sides):
    """Views can be planned on a device without memory, so nothing asks for a drawn value or leaves the device."""
    images = Pixels(pixels(5).to("meta"), torch.full((5, 2), 20).to("meta"))
    views = views_of(make_views, values)(images, Source(0, 0, torch.arange(5).to("meta")), 16)
    assert [view.device.type for view in views] == ["meta"] * len(sides)


@every_policy
def test_views_are_repeatable_and_differ(make_views, values, sides):
    """The same seed and epoch give the same bits; two views, images, epochs or seeds differ if anything is drawn."""
    images, make = Pixels(pixels(1).expand(4, -1, -1, -1), None), views_of(make_views, values)
    first = make(images, source(4), 32)
    for view, again in zip(first, make(images, source(4), 32), strict=True):
        assert torch.equal(view, again)
    if make_views is identity.make_views:
        return
    for others in (make(images, source(4, epoch=1), 32), make(images, Source(1, 0, torch.arange(4)), 32)):
        assert all(differ(view, other) for view, other in zip(first, others, strict=True))
    assert all(differ(view, view.roll(1, 0)) for view in first)
    assert all(differ(first[a], first[b]) for a in range(len(sides)) for b in range(a) if sides[a] == sides[b])


def differ(views, others):
    return ((views - others).abs().amax(dim=(1, 2, 3)) > 0.01).all()


@every_policy
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_canvas_changes_nothing(make_views, values, sides, data):
    """Images of any sizes, on a canvas full of something else, have the views that each has alone."""
    extents = data.draw(st.lists(st.tuples(st.integers(4, 48), st.integers(4, 48)), min_size=1, max_size=4), "extents")
    size, spare = data.draw(st.integers(4, 40), "size"), data.draw(st.integers(0, 9), "spare")
    make, index = views_of(make_views, values), torch.arange(len(extents))
    images = [pixels(1, height, width) for height, width in extents]
    canvas = torch.full((len(images), *(max(side) + spare for side in zip(*extents, strict=True)), 3), 255).byte()
    for row, image in enumerate(images):
        canvas[row, : image.shape[1], : image.shape[2]] = image[0]
    views = make(Pixels(canvas, torch.tensor(extents)), Source(0, 0, index), size)
    for row, image in enumerate(images):
        alone = make(Pixels(image, None), Source(0, 0, index[row : row + 1]), size)
        for view, other in zip(views, alone, strict=True):
            torch.testing.assert_close(view[row], other[0], rtol=0, atol=1e-5)


@every_policy
def test_nothing_beyond_the_extent_is_seen(make_views, values, sides):
    """Whatever lies on the canvas beside the images, the views are the same bits."""
    extents = torch.tensor([[20, 31], [32, 9], [7, 32], [30, 30]])
    beside = torch.arange(32)[:, None] >= extents[:, :1, None]
    beside = beside | (torch.arange(32) >= extents[:, 1:, None])
    clean = pixels(4).masked_fill(beside[..., None], 0)
    full = clean.where(~beside[..., None], pixels(8)[4:])
    make = views_of(make_views, values)
    for size in (12, 40):
        seen, other = (make(Pixels(canvas, extents), source(4), size) for canvas in (clean, full))
        assert all(torch.equal(view, twin) for view, twin in zip(seen, other, strict=True))


# 2. SimCLR, BYOL, SwAV


def test_simclr_is_its_operations_one_after_the_other():
    """The policy's views are those of torchvision's operations, in the paper's order, with the drawn parameters."""
    found = arguments(simclr.make_views, SIMCLR | {"rotation": 0.0}, "runs.a.views")
    images, draws = Pixels(pixels(6), None), source(6).views(2, first=0)
    box = rnd.draw_box(draws, found["crop"], images.whole(views=2), 0.5)
    draws.uniform(0, 0)  # the angle, drawn though nothing turns
    factors, gray = rnd.draw_factors(draws, found["jitter"]), draws.bernoulli(0.2)
    sigma = rnd.draw_sigma(draws, found["blur"], [0.5])
    expected = op.resample(op.as_floats(images.values), box, 32, "bicubic")
    expected = op.gaussian_blur(op.grayscale(op.color_jitter(expected, factors), gray), sigma, 3)
    assert torch.equal(torch.cat(simclr.make_views(images, source(6), 32, **found)), expected)


def test_byol_is_simclr_with_probabilities_for_each_view():
    """With equal probabilities and nothing solarized BYOL's views are SimCLR's; else each view has its own."""
    simple = bound(simclr, SIMCLR)(pixels(40), source(40), 32)
    plain, never = SIMCLR | {"blur": BLUR | {"probability": 0.0}}, {"probability": [0.0, 0.0], "threshold": 0.5}
    equal = {"blur": BLUR | {"probability": [0.5, 0.5]}, "solarize": never}
    for view, other in zip(bound(byol, SIMCLR | equal)(pixels(40), source(40), 32), simple, strict=True):
        assert torch.equal(view, other)
    blur = BLUR | {"probability": [1.0, 0.0], "sigma": [0.5, 2.0]}
    unequal = {"blur": blur, "solarize": never | {"probability": [0.0, 1.0]}}
    sharp = bound(simclr, plain)(pixels(40), source(40), 32)
    first, second = bound(byol, SIMCLR | unequal)(pixels(40), source(40), 32)
    assert (first != sharp[0]).flatten(1).any(dim=1).all()
    assert torch.equal(second, op.solarize(sharp[1], torch.ones(40, dtype=torch.bool), 0.5))


@pytest.mark.parametrize(("large", "small"), [(2, 0), (1, 2), (3, 4)])
def test_small_views_do_not_change_large_ones(large, small):
    """View k is drawn alike however many there are; two large ones alone are SimCLR's, bit for bit."""
    values = {key: SIMCLR[key] for key in ("flip", "rotation", "jitter", "grayscale", "blur")}
    crops = {"large": {"views": large, "crop": CROP}, "small": {"views": small, "side": 16, "crop": CROP}}
    views = bound(multicrop, values | crops)(pixels(5), source(5), 32)
    assert [view.shape[-1] for view in views] == [32] * large + [16] * small
    for view, other in zip(views[:large], bound(simclr, SIMCLR)(pixels(5), source(5), 32), strict=False):
        assert torch.equal(view, other)
    crops["large"]["views"], crops["small"]["views"] = large + 1, max(small - 1, 0)  # the first small one grows
    more = bound(multicrop, values | crops)(pixels(5), source(5), 32)
    for view, other in zip(views[large + 1 :], more[large + 1 :], strict=True):
        assert torch.equal(view, other)


# 3. neutral


@pytest.mark.parametrize("size", [16, 32])
def test_neutral_blocks_change_nothing(size):
    """With every operation off, both views are the image, resized."""
    images = pixels(6)
    [plain] = bound(identity, {})(images, source(6), size)
    for view in bound(simclr, NEUTRAL)(images, source(6), 32):
        assert torch.equal(view, op.as_floats(images))
    [view] = bound(weak, {"crop": {"padding": 0}, "flip": 0.0, "rotation": 0.0})(images, source(6), size)
    assert torch.equal(view, plain)


@pytest.mark.parametrize("off", ["rotation", "jitter", "grayscale"])
def test_switching_an_operation_off_keeps_the_others_draws(off):
    """The blur after an operation is the same whether that operation is on or off."""
    images = torch.full((8, 32, 32, 3), 128, dtype=torch.uint8)
    images[:, 16:, 16:] = 0
    plain = NEUTRAL | {"blur": BLUR}
    barely = {
        "rotation": 1e-4,
        "jitter": {"probability": 1.0, "brightness": 1e-5, "contrast": 1e-5, "saturation": 1e-5, "hue": 1e-5},
        "grayscale": 1.0,
    }
    views = bound(simclr, plain)(images, source(8), 32)
    others = bound(simclr, plain | {off: barely[off]})(images, source(8), 32)
    torch.testing.assert_close(others, views, atol=1e-3, rtol=0)


# 4. refusals


def test_what_params_yaml_says_reaches_the_policy():
    """Lists and numbers of params.yaml become the blocks that the policy takes."""
    accepted = arguments(simclr.make_views, SIMCLR, "runs.simclr.views")
    assert accepted["crop"] == rnd.Crop(scale=(0.08, 1.0), ratio=(0.75, 1.3333), interpolation="bicubic")


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
    values = SIMCLR | {block: SIMCLR[block] | {key: value}}
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
    blur = {"probability": 1.0, "kernel": 17, "sigma": [1.0, 1.0]}
    with pytest.raises(ParamsError, match="17 pixels reaches beyond what a view of 8 × 8 can reflect"):
        bound(simclr, SIMCLR | {"blur": blur})(pixels(4), source(4), 8)


@pytest.mark.parametrize("images", [torch.zeros(4, 32, 32, 3), torch.zeros(4, 3, 32, 32, dtype=torch.uint8)])
def test_other_images_are_refused(images):
    """Float images and channels-first images are refused with what would be right."""
    with pytest.raises(TypeError, match=r"images must be torch.uint8 of shape \(n, h, w, 3\), not torch"):
        identity.make_views(Pixels(images, None), source(4), 32)


def test_every_image_needs_an_index():
    """A batch and indices of different lengths are refused."""
    with pytest.raises(ValueError, match="4 images need as many indices, not 3"):
        identity.make_views(Pixels(pixels(4), None), source(3), 32)
