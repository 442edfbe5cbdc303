"""What policies share: the operations of SimCLR, BYOL and SwAV, and where labels are learned the place of an image."""

from collections.abc import Sequence

from stages.views._draws import Draws
from stages.views._operations import Pixels
from stages.views._random import (
    AnyCrop,
    Crop,
    Jitter,
    Kernel,
    random_blur,
    random_crop,
    random_grayscale,
    random_jitter,
    random_rotation,
    random_shift,
    whole,
)
from stages.views._steps import Step


def chain(
    draws: Draws,
    images: Pixels,
    size: int,
    *,
    views: int,
    crop: Crop,
    flip: float,
    rotation: float,
    jitter: Jitter,
    grayscale: float,
    blur: Kernel,
    blurred: Sequence[float],
) -> list[Step | None]:
    """The steps crop and flip, rotation, jitter, grayscale and blur, in SimCLR's order: color gives an image away.

    `blurred`: the probability of a blur, one for all or one for each of the stacked views.
    """
    return [
        random_crop(draws, images, size, crop, flip, views),
        random_rotation(draws, rotation),
        random_jitter(draws, jitter),
        random_grayscale(draws, grayscale),
        random_blur(draws, blur, blurred),
    ]


def placed(
    draws: Draws, images: Pixels, size: int, *, crop: AnyCrop, flip: float, rotation: float
) -> list[Step | None]:
    """The steps crop and flip, and rotation, for one view: a resized crop, or a padded one of the whole image."""
    steps: list[Step | None]
    if isinstance(crop, Crop):
        steps = [random_crop(draws, images, size, crop, flip, views=1)]
    else:
        steps = [whole(images, size), random_shift(draws, size, crop, flip)]
    return [*steps, random_rotation(draws, rotation)]
