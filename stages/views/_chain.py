"""The operations that SimCLR, BYOL and SwAV share; color gives an image away, so color is changed most."""

from collections.abc import Sequence

from stages.views._draws import Draws
from stages.views._operations import Pixels
from stages.views._random import (
    Crop,
    Jitter,
    Kernel,
    random_blur,
    random_crop,
    random_grayscale,
    random_jitter,
    random_rotation,
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
    """The steps crop and flip, rotation, jitter, grayscale and blur, in SimCLR's order.

    `blurred`: the probability of a blur, one for all or one for each of the stacked views.
    """
    return [
        random_crop(draws, images, size, crop, flip, views),
        random_rotation(draws, rotation),
        random_jitter(draws, jitter),
        random_grayscale(draws, grayscale),
        random_blur(draws, blur, blurred),
    ]
