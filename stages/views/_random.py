"""Random operations: their parameters are drawn here, a row for every view, and wait in a step for the images.

Each distribution is that of torchvision's transform of the same kind. Parameters are drawn even for an operation that
params.yaml turns off, so turning one off leaves the draws of the others as they were.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag
from torch import Tensor, cat, full_like, minimum, where, zeros_like

from pipeline.params import Block, Count, NonNegative, Positive, Probability
from stages.views import _operations as op
from stages.views._draws import Draws
from stages.views._operations import Box, Factors, Pixels, Symmetry
from stages.views._steps import Step

CANDIDATES = 10  # boxes tried before a central one is taken


def _increasing(span: tuple[float, float]) -> tuple[float, float]:
    if span[0] > span[1]:
        raise ValueError(f"the low end {span[0]} lies above the high end {span[1]}; write [low, high]")
    return span


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError(f"a blur kernel has a middle, so its size is odd: {kernel - 1} or {kernel + 1}, not {kernel}")
    return kernel


Span = Annotated[tuple[Positive, Positive], AfterValidator(_increasing)]
Part = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]], AfterValidator(_increasing)
]


class Crop(Block):
    """Resized crop: a part of the area with a ratio width / height, resampled to the size of the view."""

    scale: Part
    ratio: Span
    interpolation: Literal["bilinear", "bicubic"]


class Shift(Block):
    """Padded crop: the whole image, moved by up to `padding` pixels of the view each way; what comes in is black."""

    padding: Annotated[int, Field(ge=0)]


def _kind(crop: object) -> str:
    return "padded" if isinstance(crop, Shift) or (isinstance(crop, dict) and "padding" in crop) else "resized"


AnyCrop = Annotated[Annotated[Crop, Tag("resized")] | Annotated[Shift, Tag("padded")], Discriminator(_kind)]


class Jitter(Block):
    """Color jitter: factors from 1 ± strength (not below 0), a hue turned by up to ± `hue` of the circle."""

    probability: Probability
    brightness: NonNegative
    contrast: NonNegative
    saturation: NonNegative
    hue: Annotated[float, Field(ge=0, le=0.5)]


class Kernel(Block):
    """Gaussian blur: `kernel` pixels wide, `sigma` [low, high] in pixels."""

    kernel: Annotated[Count, AfterValidator(_odd)]
    sigma: Span


class Blur(Kernel):
    """Gaussian blur, each view with the same probability."""

    probability: Probability


def random_crop(draws: Draws, images: Pixels, size: int, crop: Crop, flip: float, views: int) -> Step:
    """A random part of each image at size × size, mirrored with probability `flip`."""
    box = draw_box(draws, crop, images.whole(views), flip)
    return Step(partial(op.resample, size=size, interpolation=crop.interpolation), box, where=None)


def whole(images: Pixels, size: int) -> Step | None:
    """The whole image at size × size, bilinear and antialiased; nothing is drawn."""
    if images.extents is None and images.values.shape[1:3] == (size, size):
        return None
    return Step(partial(op.resample, size=size, interpolation="bilinear"), images.whole(views=1), where=None)


def random_shift(draws: Draws, size: int, shift: Shift, flip: float) -> Step:
    """Shifted views, mirrored with probability `flip`."""
    box = draw_shift(draws, shift, size, flip)
    return Step(partial(op.resample, size=size, interpolation="bilinear"), box, where=None)


def draw_box(draws: Draws, crop: Crop, whole: Box, flip: float) -> Box:
    """Boxes inside each image, `whole`: the first of ten candidates that fits, else the largest central one."""
    height, width = whole.height, whole.width
    area = draws.uniforms(*crop.scale, CANDIDATES).double() * (height * width)[:, None]
    ratio = draws.uniforms(math.log(crop.ratio[0]), math.log(crop.ratio[1]), CANDIDATES).double().exp()
    central_height, central_width = _central(crop.ratio, height, width)
    heights = cat([(area / ratio).sqrt().round().long(), central_height[:, None]], dim=1)
    widths = cat([(area * ratio).sqrt().round().long(), central_width[:, None]], dim=1)
    fits = (heights > 0) & (heights <= height[:, None]) & (widths > 0) & (widths <= width[:, None])
    chosen = fits.int().argmax(dim=1, keepdim=True)
    box_height, box_width = heights.gather(1, chosen)[:, 0], widths.gather(1, chosen)[:, 0]
    central = chosen[:, 0] == CANDIDATES
    top = where(central, (height - box_height) // 2, draws.integers(height - box_height + 1))
    left = where(central, (width - box_width) // 2, draws.integers(width - box_width + 1))
    return Box(top, left, box_height, box_width, draws.bernoulli(flip))


def _central(ratio: tuple[float, float], height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """The largest height and width within the ratios: the longer side gives way."""
    tallest, widest = (width.double() / ratio[0]).round(), (height.double() * ratio[1]).round()
    return minimum(height, tallest.long()), minimum(width, widest.long())


def draw_shift(draws: Draws, shift: Shift, size: int, flip: float) -> Box:
    """Boxes of size × size that hang over the border of such an image by up to `padding`."""
    top = draws.integers(2 * shift.padding + 1) - shift.padding
    left = draws.integers(2 * shift.padding + 1) - shift.padding
    whole = full_like(top, size)
    return Box(top, left, whole, whole, draws.bernoulli(flip))


def random_jitter(draws: Draws, jitter: Jitter) -> Step | None:
    """Jittered colors in a random order, each view with probability `jitter.probability`."""
    factors = draw_factors(draws, jitter)
    if jitter.probability == 0 or jitter.brightness == jitter.contrast == jitter.saturation == jitter.hue == 0:
        return None
    return Step(op.color_jitter, factors._replace(hue=None) if jitter.hue == 0 else factors, where=None)


def draw_factors(draws: Draws, jitter: Jitter) -> Factors:
    """Factors around 1 and turns around 0; exactly 1 and 0 for the images that are spared."""
    spared = ~draws.bernoulli(jitter.probability)
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation)
    brightness, contrast, saturation = (
        draws.uniform(max(0, 1 - strength), 1 + strength).masked_fill_(spared, 1) for strength in strengths
    )
    hue = draws.uniform(-jitter.hue, jitter.hue).masked_fill_(spared, 0)
    return Factors(brightness, contrast, saturation, hue, draws.permutation(4))


def random_grayscale(draws: Draws, probability: float) -> Step | None:
    """Gray views, each with the given probability."""
    flags = draws.bernoulli(probability)
    return Step(op.grayscale, flags, where=flags) if probability else None


def random_blur(draws: Draws, blur: Kernel, probability: Sequence[float]) -> Step | None:
    """Gaussian blur; the probability is one for all or one for each of the stacked views."""
    sigma = draw_sigma(draws, blur, probability)
    return Step(partial(op.gaussian_blur, kernel=blur.kernel), sigma, where=sigma > 0) if any(probability) else None


def draw_sigma(draws: Draws, blur: Kernel, probability: Sequence[float]) -> Tensor:
    """float32 (n,) in pixels; 0 for the views that are spared."""
    spared = ~draws.bernoulli(*probability)
    return draws.uniform(*blur.sigma).masked_fill_(spared, 0)


def random_rotation(draws: Draws, degrees: float) -> Step | None:
    """Each view turned by up to `degrees` either way."""
    angles = draws.uniform(-degrees, degrees)
    return Step(op.rotate, angles, where=None) if degrees else None


def random_turn(draws: Draws, quarter_turns: bool, vertical_flip: float) -> Step | None:
    """Views turned by 0°, 90°, 180° or 270°, each equally often, and upside down with probability `vertical_flip`."""
    symmetry = draw_symmetry(draws, quarter_turns, vertical_flip)
    where = (symmetry.quarters > 0) | symmetry.upside_down
    return Step(op.turn, symmetry, where=where) if quarter_turns or vertical_flip else None


def draw_symmetry(draws: Draws, quarter_turns: bool, vertical_flip: float) -> Symmetry:
    """Quarter turns, all 0 if they are off, and who stands upside down."""
    quarters = draws.integers(4)
    return Symmetry(quarters if quarter_turns else zeros_like(quarters), draws.bernoulli(vertical_flip))


def random_solarize(draws: Draws, probability: Sequence[float], threshold: float) -> Step | None:
    """Values from `threshold` on inverted; the probability is one for all or one for each of the stacked views."""
    flags = draws.bernoulli(*probability)
    return Step(partial(op.solarize, threshold=threshold), flags, where=flags) if any(probability) else None
