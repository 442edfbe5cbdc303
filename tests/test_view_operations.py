"""Operations on images.

1. Each agrees with torchvision's, image by image, given the same parameters.
2. What a CPU leaves out changes nothing.
3. The parameters follow the distributions of torchvision's transforms.
"""

import pytest
import torch
from scipy import stats
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as reference

from stages.views import _operations as op
from stages.views import _random as rnd
from stages.views._draws import Draws
from stages.views._operations import Pixels

TOLERANCE = 1e-4  # of a value in [0, 1]; the promise is 1/255
SIZES = (8, 32, 96)


def drawn(count):
    return Draws(0, 0, 0, torch.arange(count))


def pixels(count, size=32):
    shape = (count, size, size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def whole(count, height, width):
    """The box around each of `count` images."""
    return Pixels(torch.empty(count, height, width, 3, dtype=torch.uint8), None).whole(views=1)


def floats(count, size=32):
    """Images with flat areas, gray pixels, black and white in them, not only noise."""
    images = op.as_floats(pixels(count, size))
    images[0] = 0
    images[1] = 1
    images[2, :, : size // 2] = images[2, :1, : size // 2]  # gray above
    images[3] = (images[3] > 0.5).float()  # pure colors
    return images


def assert_equal(images, expected):
    difference = (images - torch.stack(expected)).abs().amax(dim=(1, 2, 3))
    assert difference.max() < TOLERANCE, f"image {difference.argmax()} differs by {difference.max()}"


# 1. operations against torchvision


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("extent", [(8, 8), (32, 32), (96, 96), (40, 24)])
def test_resample_is_resized_crop(extent, size, interpolation):
    """A box of any size and place, enlarged or shrunk, straight or mirrored, is torchvision's resized crop."""
    images = torch.rand(24, 3, *extent, generator=torch.Generator().manual_seed(0))
    crop = rnd.Crop(scale=(0.01, 1.0), ratio=(0.4, 2.5), interpolation=interpolation)
    box = rnd.draw_box(drawn(24), crop, whole(24, *extent), 0.5)
    expected = []
    for image, top, left, height, width, mirrored in zip(images, *(part.tolist() for part in box), strict=True):
        mode = InterpolationMode(interpolation)
        view = reference.resized_crop(image, top, left, height, width, [size, size], mode, antialias=True).clamp(0, 1)
        expected.append(reference.horizontal_flip(view) if mirrored else view)
    assert box.mirrored.any()
    assert_equal(op.resample(images, box, size, interpolation), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("extent", SIZES)
def test_resize_is_torchvisions(extent, size):
    """The whole image at another size is torchvision's antialiased bilinear resize."""
    images = floats(4, extent)
    resized = op.resample(images, whole(4, extent, extent), size, "bilinear")
    assert_equal(resized, [reference.resize(image, [size, size], antialias=True) for image in images])


def test_stacked_views_show_each_image_again():
    """Boxes n … 2n - 1 show images 0 … n - 1, as boxes 0 … n - 1 do."""
    images = floats(4)
    crop = rnd.Crop(scale=(0.2, 1.0), ratio=(0.5, 2.0), interpolation="bilinear")
    box = rnd.draw_box(drawn(12), crop, whole(12, 32, 32), 0.5)
    expected = op.resample(images.repeat(3, 1, 1, 1), box, 16, "bilinear")
    assert torch.equal(op.resample(images, box, 16, "bilinear"), expected)


def test_a_shift_is_a_padded_crop():
    """A box that hangs over the border by up to 4 pixels is a crop of the image padded with 4 black pixels."""
    images = floats(40)
    box = rnd.draw_shift(drawn(40), rnd.Shift(padding=4), 32, 0.5)
    expected = []
    for image, top, left, mirrored in zip(images, *(box[i].tolist() for i in (0, 1, 4)), strict=True):
        view = reference.crop(reference.pad(image, [4, 4, 4, 4]), top + 4, left + 4, 32, 32)
        expected.append(reference.horizontal_flip(view) if mirrored else view)
    assert torch.equal(op.resample(images, box, 32, "bilinear"), torch.stack(expected))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("hue", [0.0, 0.5])
def test_color_jitter_is_torchvisions_in_any_order(hue, size):
    """Four color changes in each image's own order, clamped after each, are torchvision's one after the other."""
    images = floats(72, size)
    jitter = rnd.Jitter(probability=1.0, brightness=1.0, contrast=1.0, saturation=1.0, hue=hue)
    factors = rnd.draw_factors(drawn(72), jitter)
    names = ("brightness", "contrast", "saturation", "hue")
    changes = [getattr(reference, f"adjust_{name}") for name in names]
    expected = []
    for position, view in enumerate(images):
        for change in factors.order[position].tolist():
            view = changes[change](view, factors[change][position].item())  # noqa: PLW2901  # a chain of changes
        expected.append(view)
    assert len({tuple(order) for order in factors.order.tolist()}) > 20
    assert_equal(op.color_jitter(images, factors._replace(hue=None) if hue == 0 else factors), expected)


def test_grayscale_is_torchvisions():
    """The flagged images turn gray, the others stay exactly as they are."""
    images, flags = floats(8), torch.arange(8) % 2 == 0
    gray = op.grayscale(images, flags)
    assert_equal(gray[flags], [reference.rgb_to_grayscale(image, 3) for image in images[flags]])
    assert torch.equal(gray[~flags], images[~flags])


@pytest.mark.parametrize(("size", "kernel"), [(8, 3), (8, 15), (32, 3), (32, 23), (96, 9)])
def test_gaussian_blur_is_torchvisions(size, kernel):
    """Each image's sigma gives torchvision's blur up to the widest kernel that reflection allows."""
    images = floats(16, size)
    sigma = drawn(16).uniform(0.1, 5)
    pairs = zip(images, sigma.tolist(), strict=True)
    expected = [reference.gaussian_blur(image, [kernel, kernel], [width, width]) for image, width in pairs]
    assert_equal(op.gaussian_blur(images, sigma, kernel), expected)


def test_blur_without_sigma_changes_nothing():
    """Images with sigma 0 pass through a blur bit for bit."""
    images = floats(6)
    sigma = torch.tensor([0.0, 1.0]).repeat(3)
    blurred = op.gaussian_blur(images, sigma, 5)
    assert torch.equal(blurred[::2], images[::2])
    assert not torch.equal(blurred[3], images[3])


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (96, 96), (40, 24)])
def test_rotate_is_torchvisions(shape):
    """Turned images are torchvision's bilinear rotation, black where nothing was."""
    images = torch.rand(16, 3, *shape, generator=torch.Generator().manual_seed(0))
    degrees = drawn(16).uniform(-180, 180)
    mode = InterpolationMode.BILINEAR
    pairs = zip(images, degrees.tolist(), strict=True)
    expected = [reference.rotate(image, angle, mode) for image, angle in pairs]
    assert_equal(op.rotate(images, degrees), expected)


def test_solarize_is_torchvisions():
    """The flagged images are inverted from the threshold on."""
    images, flags = floats(8), torch.arange(8) % 2 == 0
    pairs = zip(images, flags, strict=True)
    expected = [reference.solarize(image, 0.5) if flag else image for image, flag in pairs]
    assert_equal(op.solarize(images, flags, 0.5), expected)


# 2. what a CPU leaves out


@pytest.mark.parametrize("hue", [0.0, 0.4])
def test_jitter_passes_over_nothing_that_changes(hue, monkeypatch):
    """Jitter that skips what is neutral gives the images of jitter that skips nothing, as an accelerator does it."""
    images = floats(64, 8)
    jitter = rnd.Jitter(probability=0.7, brightness=0.4, contrast=1.0, saturation=1.0, hue=hue)
    step = rnd.random_jitter(drawn(64), jitter)
    lean = step.done_to(images)
    monkeypatch.setattr(op, "_lean", lambda before, spared: op._full(before))
    torch.testing.assert_close(lean, step.done_to(images), rtol=0, atol=1e-6)
    spared = rnd.draw_factors(drawn(64), jitter).brightness == 1
    assert 0 < spared.sum() < 40
    assert torch.equal(lean[spared], images[spared])


def steps():
    blur = rnd.Blur(probability=0.5, kernel=3, sigma=(0.1, 2.0))
    return {
        "grayscale": rnd.random_grayscale(drawn(40), 0.3),
        "blur": rnd.random_blur(drawn(40), blur, [0.2, 0.7]),
        "solarize": rnd.random_solarize(drawn(40), [0.0, 0.5], 0.5),
    }


@pytest.mark.parametrize("name", steps())
def test_a_step_changes_the_views_that_it_says(name):
    """Done to some views only, a step gives what it gives when done to all: to the others it is neutral."""
    step, images = steps()[name], floats(40)
    expected = step.operation(images, step.parameters)
    assert torch.equal(step.done_to(images.clone()), expected)
    assert torch.equal((expected != images).flatten(1).any(dim=1)[4:], step.where[4:])  # the first four are plain


# 3. distributions of the parameters


def assert_same_distribution(ours, theirs):
    assert stats.ks_2samp(ours, theirs).pvalue > 0.01


@pytest.mark.parametrize(
    ("scale", "ratio", "extent"),
    [
        ((0.08, 1.0), (3 / 4, 4 / 3), (32, 32)),
        ((0.3, 1.0), (0.5, 2.0), (20, 60)),
        ((0.5, 1.0), (1.5, 3.0), (32, 32)),  # few candidates fit, so the central box is frequent
        ((0.9, 1.0), (0.3, 0.5), (32, 32)),  # none fits
    ],
)
def test_boxes_are_distributed_as_torchvisions(scale, ratio, extent):
    """Height, width, area and place of the boxes are distributed as RandomResizedCrop's."""
    crop = rnd.Crop(scale=scale, ratio=ratio, interpolation="bilinear")
    top, left, height, width, _ = rnd.draw_box(drawn(4000), crop, whole(4000, *extent), 0.5)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= extent[0]).all()
    assert (left + width <= extent[1]).all()
    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(32, scale, ratio)
    boxes = [transform.make_params([torch.empty(3, *extent)]) for _ in range(2000)]
    ours = {"top": top, "left": left, "height": height, "width": width}
    for name, values in ours.items():
        assert_same_distribution(values, [box[name] for box in boxes])
    assert_same_distribution(height * width, [box["height"] * box["width"] for box in boxes])


def test_shifts_are_equally_likely():
    """Every shift of up to 4 pixels, up or down and left or right, comes up equally often."""
    box = rnd.draw_shift(drawn(9000), rnd.Shift(padding=4), 32, 0.5)
    counts = ((box.top + 4) * 9 + box.left + 4).bincount(minlength=81)
    assert stats.chisquare(counts).pvalue > 0.01


def test_color_factors_are_distributed_as_torchvisions():
    """The factors are distributed as ColorJitter's, and a share of 1 - probability of the images is spared."""
    jitter = rnd.Jitter(probability=0.8, brightness=0.4, contrast=1.4, saturation=0.2, hue=0.1)
    ours = rnd.draw_factors(drawn(5000), jitter)
    torch.manual_seed(0)
    transform = v2.ColorJitter(brightness=0.4, contrast=1.4, saturation=0.2, hue=0.1)
    theirs = [transform.make_params([]) for _ in range(2000)]
    spared = ours.hue == 0
    assert stats.binomtest(int(spared.sum()), 5000, 0.2).pvalue > 0.01
    for name in ("brightness", "contrast", "saturation", "hue"):
        values = getattr(ours, name)
        assert torch.equal(values == (0 if name == "hue" else 1), spared)
        assert_same_distribution(values[~spared], [params[f"{name}_factor"] for params in theirs])


def test_sigmas_are_distributed_as_torchvisions():
    """The blurred images' sigmas are distributed as GaussianBlur's; the others' are 0."""
    sigma = rnd.draw_sigma(drawn(5000), rnd.Blur(probability=0.5, kernel=3, sigma=(0.1, 2.0)), [0.5])
    torch.manual_seed(0)
    transform = v2.GaussianBlur(3, (0.1, 2.0))
    assert stats.binomtest(int((sigma > 0).sum()), 5000, 0.5).pvalue > 0.01
    assert_same_distribution(sigma[sigma > 0], [transform.make_params([])["sigma"][0] for _ in range(2000)])


def test_angles_are_uniform():
    """A random rotation turns by U(-degrees, degrees)."""
    assert torch.equal(rnd.random_rotation(drawn(8), 30.0).parameters, drawn(8).uniform(-30, 30))


@pytest.mark.parametrize(
    "step", [rnd.random_grayscale(drawn(2000), 0.2), rnd.random_solarize(drawn(2000), [0.2], threshold=0.5)]
)
def test_changes_come_with_their_probability(step):
    """About the given share of the images is changed."""
    images = op.as_floats(pixels(2000, 4))
    changed = (step.operation(images, step.parameters) != images).flatten(1).any(dim=1)
    assert stats.binomtest(int(changed.sum()), 2000, 0.2).pvalue > 0.01


def test_boxes_lie_inside_each_images_own_extent():
    """Images of different sizes on one canvas draw the boxes that each draws alone."""
    extents = torch.tensor([[8, 8], [20, 60], [60, 20], [33, 34]]).repeat(50, 1)
    canvas = Pixels(torch.empty(200, 64, 64, 3, dtype=torch.uint8), extents)
    crop = rnd.Crop(scale=(0.2, 1.0), ratio=(0.5, 2.0), interpolation="bilinear")
    box = rnd.draw_box(drawn(200), crop, canvas.whole(views=1), 0.5)
    assert (box.top + box.height <= extents[:, 0]).all()
    assert (box.left + box.width <= extents[:, 1]).all()
    for row in range(4):
        alone = rnd.draw_box(drawn(200), crop, whole(200, *extents[row].tolist()), 0.5)
        assert all(torch.equal(part[row::4], other[row::4]) for part, other in zip(box, alone, strict=True))
