"""Weak and strong views: what a network says of the one, it is to say of the other."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from pipeline.params import Count, NonNegative, Probability
from stages.views._augment import random_augment, random_cutout
from stages.views._chain import placed
from stages.views._draws import Source
from stages.views._operations import Pixels
from stages.views._random import AnyCrop
from stages.views._steps import Step, render

Roles = Annotated[list[Literal["weak", "strong"]], Field(min_length=1)]


def make_views(
    images: Pixels,
    source: Source,
    size: int,
    *,
    roles: Roles,
    crop: AnyCrop,
    flip: Probability,
    rotation: NonNegative,
    operations: Count,
    magnitude: Annotated[float, Field(gt=0, le=1)],
    cutout: Probability,
) -> list[Tensor]:
    """Draw a view of each image for every one of `roles`, in their order.

        weak      image ─ crop ─ flip ─ rotate ─→ view
        strong    image ─ crop ─ flip ─ rotate ─ `operations` of fourteen ─ cutout ─→ view

    n images → float32 (n, 3, size, size) in [0, 1], one for each role; a weak view is that of the policy `weak`.
    An operation has a strength from 0 to `magnitude` of: turn 30°, shear 0.3, shift 0.3 of the side, brightness,
    contrast, saturation and sharpness 1 ± 0.9, posterize down to 4 bits, solarize from 0 on; or it is autocontrast,
    equalize, nothing. `cutout` is the side of a gray square as a share of the view's. FixMatch takes 2 operations,
    magnitude 1, cutout 0.5. Sources: Cubuk et al., "RandAugment", 2020 (arXiv:1909.13719); Sohn et al., "FixMatch",
    2020 (arXiv:2001.07685), App. D.
    """
    views = []
    for number, role in enumerate(roles):
        draws = source.view(number)
        steps: list[Step | None] = placed(draws, images, size, crop=crop, flip=flip, rotation=rotation)
        if role == "strong":
            steps += [*random_augment(draws, size, operations, magnitude), random_cutout(draws, size, cutout)]
        views += render(images, source, size, steps, 1)
    return views
