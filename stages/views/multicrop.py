"""SwAV's multi-crop: a few large views, and many small ones, which cost little."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from pipeline.params import Block, Count, NonNegative, Probability
from stages.views._chain import chain
from stages.views._draws import Source
from stages.views._operations import Pixels
from stages.views._random import Blur, Crop, Jitter
from stages.views._steps import render


class Large(Block):
    """`views` crops at the size that the encoder is asked for."""

    views: Count
    crop: Crop


class Small(Block):
    """`views` crops of `side` × `side` pixels."""

    views: Annotated[int, Field(ge=0)]
    side: Count
    crop: Crop


def make_views(
    images: Pixels,
    source: Source,
    size: int,
    *,
    large: Large,
    small: Small,
    flip: Probability,
    rotation: NonNegative,
    jitter: Jitter,
    grayscale: Probability,
    blur: Blur,
) -> list[Tensor]:
    """Draw the large views of each image in one pass, then the small ones in another.

          ┌─ large crop ─ as in simclr ─→ view 0 … n - 1
    image ┤
          └─ small crop ─ as in simclr ─→ view n … n + m - 1

    k images → n float32 (k, 3, size, size), then m (k, 3, side, side), in [0, 1]. The paper takes 2 of 224 pixels with
    area 0.14 to 1 and 6 of 96 with 0.05 to 0.14, jitter (0.8, 0.8, 0.8, 0.2) with probability 0.8, grayscale 0.2, blur
    0.5. View k is that of any other n and m with the same crop; without small views two large ones are simclr's.
    Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", 2020, §3.4, A.
    """
    views: list[Tensor] = []
    for side, crops in ((size, large), (small.side, small)):
        if crops.views:
            steps = chain(
                source.views(crops.views, first=len(views)),
                images,
                side,
                views=crops.views,
                crop=crops.crop,
                flip=flip,
                rotation=rotation,
                jitter=jitter,
                grayscale=grayscale,
                blur=blur,
                blurred=[blur.probability],
            )
            views += render(images, source, side, steps, crops.views)
    return views
