"""Random operations: the parameters are drawn here, one set per image, and handed to `_operations`.

Each distribution is that of torchvision's transform of the same kind. Parameters are drawn even for an operation that
params.yaml turns off, so turning one off leaves the draws of the others as they were.
"""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag
from torch import Tensor, full_like, where
from torch.nn import functional

from pipeline.params import Block, Count, NonNegative, Positive, Probability
from stages.views import _operations as op
from stages.views._draws import Draws
from stages.views._operations import Box, Factors

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


class Blur(Block):
    """Gaussian blur: `kernel` pixels wide, `sigma` [low, high] in pixels."""

    probability: Probability
    kernel: Annotated[Count, AfterValidator(_odd)]
    sigma: Span


def random_crop(images: Tensor, draws: Draws, size: int, crop: Crop | Shift, flip: float) -> Tensor:
    """A random part of each image at size × size, mirrored with probability `flip`."""
    if isinstance(crop, Shift):
        return op.resample(op.resize(images, size), draw_shift(draws, crop, size, flip), size, "bilinear")
    return op.resample(images, draw_box(draws, crop, images.shape[2], images.shape[3], flip), size, crop.interpolation)


def draw_box(draws: Draws, crop: Crop, height: int, width: int, flip: float) -> Box:
    """Boxes inside height × width: the first of ten candidates that fits, else the largest central one."""
    area = draws.uniforms(*crop.scale, CANDIDATES).double() * (height * width)
    ratio = draws.uniforms(math.log(crop.ratio[0]), math.log(crop.ratio[1]), CANDIDATES).double().exp()
    central_height, central_width = _central(crop.ratio, height, width)
    heights = functional.pad((area / ratio).sqrt().round().long(), (0, 1), value=central_height)
    widths = functional.pad((area * ratio).sqrt().round().long(), (0, 1), value=central_width)
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    chosen = fits.int().argmax(dim=1, keepdim=True)
    box_height, box_width = heights.gather(1, chosen)[:, 0], widths.gather(1, chosen)[:, 0]
    central = chosen[:, 0] == CANDIDATES
    top = where(central, (height - box_height) // 2, draws.integers(height - box_height + 1))
    left = where(central, (width - box_width) // 2, draws.integers(width - box_width + 1))
    return Box(top, left, box_height, box_width, draws.bernoulli(flip))


def _central(ratio: tuple[float, float], height: int, width: int) -> tuple[int, int]:
    if width / height < ratio[0]:
        return round(width / ratio[0]), width
    if width / height > ratio[1]:
        return height, round(height * ratio[1])
    return height, width


def draw_shift(draws: Draws, shift: Shift, size: int, flip: float) -> Box:
    """Boxes of size × size that hang over the border of such an image by up to `padding`."""
    top = draws.integers(2 * shift.padding + 1) - shift.padding
    left = draws.integers(2 * shift.padding + 1) - shift.padding
    whole = full_like(top, size)
    return Box(top, left, whole, whole, draws.bernoulli(flip))


def random_jitter(images: Tensor, draws: Draws, jitter: Jitter) -> Tensor:
    """Jittered colors in a random order, each image with probability `jitter.probability`."""
    factors = draw_factors(draws, jitter)
    if jitter.probability == 0 or jitter.brightness == jitter.contrast == jitter.saturation == jitter.hue == 0:
        return images
    return op.color_jitter(images, factors._replace(hue=None) if jitter.hue == 0 else factors)


def draw_factors(draws: Draws, jitter: Jitter) -> Factors:
    """Factors around 1 and turns around 0; exactly 1 and 0 for the images that are spared."""
    spared = ~draws.bernoulli(jitter.probability)
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation)
    brightness, contrast, saturation = (
        draws.uniform(max(0, 1 - strength), 1 + strength).masked_fill_(spared, 1) for strength in strengths
    )
    hue = draws.uniform(-jitter.hue, jitter.hue).masked_fill_(spared, 0)
    return Factors(brightness, contrast, saturation, hue, draws.permutation(4))


def random_grayscale(images: Tensor, draws: Draws, probability: float) -> Tensor:
    """Gray images, each with the given probability."""
    flags = draws.bernoulli(probability)
    return images if probability == 0 else op.grayscale(images, flags)


def random_blur(images: Tensor, draws: Draws, blur: Blur) -> Tensor:
    """Gaussian blur, each image with probability `blur.probability`."""
    sigma = draw_sigma(draws, blur)
    return images if blur.probability == 0 else op.gaussian_blur(images, blur.kernel, sigma)


def draw_sigma(draws: Draws, blur: Blur) -> Tensor:
    """float32 (n,) in pixels; 0 for the images that are spared."""
    spared = ~draws.bernoulli(blur.probability)
    return draws.uniform(*blur.sigma).masked_fill_(spared, 0)


def random_rotation(images: Tensor, draws: Draws, degrees: float) -> Tensor:
    """Each image turned by up to `degrees` either way."""
    angles = draws.uniform(-degrees, degrees)
    return images if degrees == 0 else op.rotate(images, angles)


def random_solarize(images: Tensor, draws: Draws, probability: float, threshold: float) -> Tensor:
    """Solarized images, each with the given probability."""
    flags = draws.bernoulli(probability)
    return images if probability == 0 else op.solarize(images, flags, threshold)
