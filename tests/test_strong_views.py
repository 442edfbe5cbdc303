"""Strong views.

1. Each operation agrees with torchvision's, image by image, given the same parameters; neutral ones change nothing.
2. Kind, strength and sign become the parameters that RandAugment's paper gives.
3. `weak_strong` gives views in the order of its roles; a weak one is that of the policy `weak`.
"""

import math

import pytest
import torch
from scipy import stats
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from pipeline.errors import ParamsError
from pipeline.params import arguments
from stages.views import _augment, _strong, weak, weak_strong
from stages.views._draws import Draws, Source
from stages.views._operations import Pixels, as_floats
from stages.views._strong import Blend, Patch, Tone

TOLERANCE = 1e-4  # of a value in [0, 1]; the promise is 1/255
ADJUSTMENTS = ("brightness", "contrast", "saturation", "sharpness")
PLACE = {"crop": {"padding": 4}, "flip": 0.5, "rotation": 10.0}
STRONG = {"roles": ["weak", "strong"], "operations": 2, "magnitude": 1.0, "cutout": 0.5} | PLACE


def pixels(count, size=32):
    shape = (count, size, size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def floats(count, size=32):
    """Images with flat areas, gray pixels, black and white in them, little contrast, not only noise."""
    images = as_floats(pixels(count, size))
    images[0], images[1] = 0, 1
    images[2, :, : size // 2] = images[2, :1, : size // 2]
    images[3] = (images[3] > 0.5).float()
    images[4] = 0.4 + images[4] / 5
    return images


def assert_equal(images, expected):
    difference = (images - torch.stack(expected)).abs().amax(dim=(1, 2, 3))
    assert difference.max() < TOLERANCE, f"image {difference.argmax()} differs by {difference.max()}"


def some(count, low, high):
    return Draws(0, 0, 0, torch.arange(count)).uniform(low, high)


def views_of(policy, values, images, source, size):
    found = arguments(policy.make_views, values, "finetunes.a.views")
    return policy.make_views(Pixels(images, None), source, size, **found)


def made(name, strength, sign, images):
    """The images after one operation."""
    count, size = len(images), images.shape[-1]
    kind = torch.full((count,), _augment.NAMES.index(name))
    for step in _augment.changes(kind, torch.full((count,), strength), torch.full((count,), sign), size):
        images = step.done_to(images.clone())
    return images


# 1. operations


@pytest.mark.parametrize("size", [2, 8, 32])
@pytest.mark.parametrize("kind", range(4))
def test_enhance_is_torchvisions(kind, size):
    """Brightness, contrast, saturation and sharpness with each image's own factor."""
    images, factors = floats(12, size), some(12, 0, 2)
    adjust = getattr(reference, f"adjust_{ADJUSTMENTS[kind]}")
    expected = [adjust(image, factor) for image, factor in zip(images, factors.tolist(), strict=True)]
    assert_equal(_strong.enhance(images, Blend(torch.full((12,), kind), factors)), expected)


def test_posterize_is_torchvisions():
    """Each image keeps as many bits as it is told."""
    images, bits = floats(16), torch.arange(16) % 8 + 1
    expected = [reference.posterize(image, number) for image, number in zip(images, bits.tolist(), strict=True)]
    assert_equal(_strong.tone(images, Tone(bits, torch.full((16,), 2.0))), expected)


def test_solarize_is_torchvisions():
    """Each image is inverted from its own threshold on."""
    images, thresholds = floats(16), some(16, 0, 1)
    expected = [reference.solarize(image, value) for image, value in zip(images, thresholds.tolist(), strict=True)]
    assert_equal(_strong.tone(images, Tone(torch.zeros(16, dtype=torch.int64), thresholds)), expected)


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
@pytest.mark.parametrize("size", [8, 32, 48])
def test_contrast_is_torchvisions(name, size):
    """The flagged images are stretched or equalized channel by channel, the others stay exactly as they are."""
    images, flags = floats(12, size), torch.arange(12) % 3 != 2
    if name == "equalize":  # torchvision's values are those of uint8
        images = (images * 255).round() / 255
    found = getattr(_strong, name)(images, flags)
    assert_equal(found[flags], [getattr(reference, name)(image) for image in images[flags]])
    assert torch.equal(found[~flags], images[~flags])
    if size > 8:
        assert not torch.equal(found[flags], images[flags])


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (40, 24)])
def test_warp_is_torchvisions_affine(shape):
    """Turned, sheared and shifted at once, bilinear, black where nothing was."""
    images = torch.rand(12, 3, *shape, generator=torch.Generator().manual_seed(0))
    angles, across, right = some(12, -180, 180), some(12, -30, 30), some(12, -9, 9)
    expected, matrices = [], []
    for image, angle, shear, shift in zip(images, *(x.tolist() for x in (angles, across, right)), strict=True):
        mode = InterpolationMode.BILINEAR
        expected.append(reference.affine(image, angle, [shift, -shift / 2], 1.0, [shear, 0.0], mode))
        cos, sin, tan = (f(math.radians(x)) for f, x in ((math.cos, angle), (math.sin, angle), (math.tan, shear)))
        inverse = _inverse(cos, sin, tan)
        matrices.append(torch.cat([inverse, -inverse @ torch.tensor([[shift], [-shift / 2]])], 1))
    assert_equal(_strong.warp(images, torch.stack(matrices)), expected)


def _inverse(cos, sin, tan):
    """Of a shear by −tan, then a turn: [[1, −tan], [0, 1]] undone after the turn is."""
    forward = torch.tensor([[cos, -sin], [sin, cos]]) @ torch.tensor([[1.0, -tan], [0.0, 1.0]])
    return torch.linalg.inv(forward)


def test_cutout_is_torchvisions_erase():
    """A gray square, cut at the border."""
    images, row, column = floats(16), some(16, 0, 32).long(), some(16, 0, 32).long().flip(0)
    side = torch.arange(16)
    expected = []
    for image, y, x, s in zip(images, row.tolist(), column.tolist(), side.tolist(), strict=True):
        top, left, bottom, right = max(0, y - s // 2), max(0, x - s // 2), y - s // 2 + s, x - s // 2 + s
        expected.append(
            reference.erase(image, top, left, max(0, bottom - top), max(0, right - left), torch.tensor(0.5))
        )
    assert_equal(_strong.cutout(images, Patch(row, column, side)), expected)


@pytest.mark.parametrize("name", _augment.NAMES)
def test_a_step_changes_only_the_images_that_it_says(name):
    """Done to some images only, as on a CPU, a step gives what it gives when done to all; the others stay exactly."""
    images = 0.1 + 0.8 * floats(40)  # no autocontrast leaves them
    kind = torch.where(torch.arange(40) % 2 == 0, _augment.NAMES.index(name), 0)
    changed = torch.zeros(40, dtype=torch.bool)
    for step in _augment.changes(kind, torch.full((40,), 0.7), torch.full((40,), 1.0), 32):
        done = step.operation(images, step.parameters)
        torch.testing.assert_close(step.done_to(images.clone()), done, rtol=0, atol=1e-6)
        changed |= (done != images).flatten(1).any(1)
    assert not changed[1::2].any()
    assert changed[6::2].all() == (name != "identity")


# 2. parameters


@pytest.mark.parametrize(
    ("name", "adjust"),
    [
        ("brightness", lambda image, s: reference.adjust_brightness(image, 1 + 0.9 * s)),
        ("contrast", lambda image, s: reference.adjust_contrast(image, 1 + 0.9 * s)),
        ("saturation", lambda image, s: reference.adjust_saturation(image, 1 + 0.9 * s)),
        ("sharpness", lambda image, s: reference.adjust_sharpness(image, 1 + 0.9 * s)),
        ("posterize", lambda image, s: reference.posterize(image, 8 - round(4 * abs(s)))),
        ("solarize", lambda image, s: reference.solarize(image, 1 - abs(s))),
        ("rotate", lambda image, s: reference.rotate(image, 30 * s, InterpolationMode.BILINEAR)),
        ("shear_x", lambda image, s: sheared(image, [0.3 * s, 0.0])),
        ("shear_y", lambda image, s: sheared(image, [0.0, 0.3 * s])),
        ("translate_x", lambda image, s: shifted(image, [0.3 * 32 * s, 0.0])),
        ("translate_y", lambda image, s: shifted(image, [0.0, 0.3 * 32 * s])),
        ("autocontrast", lambda image, s: reference.autocontrast(image)),
        ("identity", lambda image, s: image),
    ],
)
@pytest.mark.parametrize("signed", [0.35, -1.0])
def test_strength_and_sign_become_torchvisions_parameters(name, adjust, signed):
    """Strength 1 is 30°, a shear or shift by 0.3, a factor of 1 ± 0.9, 4 bits, a threshold of 0."""
    images = floats(8)
    assert_equal(made(name, abs(signed), math.copysign(1, signed), images), [adjust(x, signed) for x in images])


def sheared(image, tangents):
    degrees = [math.degrees(math.atan(tangent)) for tangent in tangents]
    return reference.affine(image, 0.0, [0.0, 0.0], 1.0, degrees, InterpolationMode.BILINEAR)


def shifted(image, pixels):
    return reference.affine(image, 0.0, pixels, 1.0, [0.0, 0.0], InterpolationMode.BILINEAR)


def test_operations_are_equally_likely_and_of_every_strength():
    """Each of fourteen kinds comes up equally often; strengths are uniform up to the magnitude, signs even."""
    draws, twin = (Draws(0, 0, 0, torch.arange(14_000)) for _ in range(2))
    warped, *_ = _augment.random_augment(draws, 32, operations=1, magnitude=0.5)
    kind, strength, sign = twin.integers(14), twin.uniform(0, 0.5), twin.bernoulli(0.5)
    assert stats.chisquare(kind.bincount()).pvalue > 0.01
    turned = kind == _augment.NAMES.index("rotate")
    degrees = torch.atan2(warped.parameters[:, 1, 0], warped.parameters[:, 0, 0]).rad2deg()
    torch.testing.assert_close(degrees[turned], (30 * strength * (1 - 2 * sign.float()))[turned])
    assert stats.kstest(degrees[turned].abs() / 15, stats.uniform.cdf).pvalue > 0.01
    assert stats.binomtest(int((degrees[turned] > 0).sum()), int(turned.sum())).pvalue > 0.01


# 3. the policy


def source(count):
    return Source(seed=0, epoch=0, index=torch.arange(count))


def test_a_weak_view_is_that_of_weak():
    """The first view is that of the policy `weak` to the bit, a second one has draws of its own."""
    images = pixels(9)
    [plain] = views_of(weak, PLACE, images, source(9), 32)
    for roles in (["weak"], ["weak", "strong"], ["weak", "weak"]):
        views = views_of(weak_strong, STRONG | {"roles": roles}, images, source(9), 32)
        assert len(views) == len(roles)
        assert torch.equal(views[0], plain)
        assert not any(torch.equal(view, plain) for view in views[1:])


def test_a_strong_view_is_a_weak_one_changed():
    """Without cutout and at the smallest strengths it is nearly the weak view; with cutout a part of it is gray."""
    images = pixels(30)
    slight = STRONG | {"roles": ["strong"], "magnitude": 1e-6, "cutout": 0.0, "operations": 1}
    [strong] = views_of(weak_strong, slight, images, source(30), 32)
    [plain] = views_of(weak, PLACE, images, source(30), 32)
    near = (strong - plain).abs().amax((1, 2, 3)) < 0.02  # all but the two that stretch, and solarize at 1
    assert near.float().mean() > 0.6
    [cut] = views_of(weak_strong, slight | {"cutout": 0.5}, images, source(30), 32)
    gray = (cut == 0.5).all(1).flatten(1).sum(1)
    assert gray.max() == 16 * 16
    assert gray.min() >= 8 * 8
    kept = (cut == strong) | (cut == 0.5)
    assert kept.all()


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("roles", ["weak", "stronger"], "'weak' or 'strong'"),
        ("roles", [], "at least 1"),
        ("operations", 0, "greater than or equal to 1"),
        ("magnitude", 0.0, "greater than 0"),
        ("cutout", 1.5, "less than or equal to 1"),
    ],
)
def test_wrong_values_are_refused_in_one_sentence(key, value, says):
    """A wrong value is named with its place and what would be right."""
    with pytest.raises(ParamsError) as refusal:
        views_of(weak_strong, STRONG | {key: value}, pixels(2), source(2), 32)
    assert f"finetunes.a.views.{key}" in str(refusal.value)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
