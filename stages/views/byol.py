"""BYOL's two views: SimCLR's, but blurred and solarized with other probabilities in one than in the other."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from pipeline.params import Block, NonNegative, Probability
from stages.views._chain import chain
from stages.views._draws import Source
from stages.views._operations import Pixels
from stages.views._random import Crop, Jitter, Kernel, random_solarize
from stages.views._steps import render


class UnequalBlur(Kernel):
    """Gaussian blur, with the probability of view 0 and that of view 1."""

    probability: tuple[Probability, Probability]


class UnequalSolarize(Block):
    """Values from `threshold` on inverted, with the probability of view 0 and that of view 1."""

    probability: tuple[Probability, Probability]
    threshold: Annotated[float, Field(ge=0, le=1)]


def make_views(
    images: Pixels,
    source: Source,
    size: int,
    *,
    crop: Crop,
    flip: Probability,
    rotation: NonNegative,
    jitter: Jitter,
    grayscale: Probability,
    blur: UnequalBlur,
    solarize: UnequalSolarize,
) -> list[Tensor]:
    """Draw two views of each image, in one pass.

          ┌─ as in simclr, often blurred ───────────────→ view 0
    image ┤
          └─ as in simclr, seldom blurred ─ solarized ──→ view 1

    n images → two float32 (n, 3, size, size) in [0, 1]. The paper takes area 0.08 to 1, ratio 3/4 to 4/3, bicubic, flip
    0.5, jitter (0.4, 0.4, 0.2, 0.1) with probability 0.8, grayscale 0.2, blur 1 and 0.1 of 23 pixels at 224 with sigma
    0.1 to 2, solarize 0 and 0.2 from a half. Rotation, in degrees, is an addition.
    Source: Grill et al., "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", 2020, App. B.
    """
    draws = source.views(2, first=0)
    steps = chain(
        draws,
        images,
        size,
        views=2,
        crop=crop,
        flip=flip,
        rotation=rotation,
        jitter=jitter,
        grayscale=grayscale,
        blur=blur,
        blurred=blur.probability,
    )
    return render(images, source, size, [*steps, random_solarize(draws, solarize.probability, solarize.threshold)], 2)
