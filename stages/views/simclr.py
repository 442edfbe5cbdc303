"""SimCLR's two views: color gives an image away, so color is changed most."""

from torch import Tensor, channels_last

from pipeline.params import NonNegative, Probability
from stages.views._draws import Source
from stages.views._operations import as_floats, piecewise
from stages.views._random import (
    Blur,
    Crop,
    Jitter,
    random_blur,
    random_crop,
    random_grayscale,
    random_jitter,
    random_rotation,
)


@piecewise
def make_views(
    images: Tensor,
    source: Source,
    size: int,
    *,
    crop: Crop,
    flip: Probability,
    rotation: NonNegative,
    jitter: Jitter,
    grayscale: Probability,
    blur: Blur,
) -> list[Tensor]:
    """Draw two views of each image, in one pass.

          ┌─ crop ─ flip ─ rotate ─ jitter ─ grayscale ─ blur ─→ view 0
    image ┤
          └─ crop ─ flip ─ rotate ─ jitter ─ grayscale ─ blur ─→ view 1

    uint8 (n, h, w, 3) → two float32 (n, 3, size, size) in [0, 1]. With strength s the paper takes area 0.08 to 1,
    ratio 3/4 to 4/3, flip 0.5, jitter (0.8s, 0.8s, 0.8s, 0.2s) with probability 0.8, grayscale 0.2, blur 0.5 of a
    tenth of the size with sigma 0.1 to 2; for CIFAR s = 0.5 and no blur. Rotation, in degrees, is an addition.
    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", 2020, App. A, B.9.
    """
    draws = source.views(2)
    views = random_crop(as_floats(images, views=2), draws, size, crop, flip)
    views = random_rotation(views, draws, rotation)
    views = random_jitter(views, draws, jitter)
    views = random_grayscale(views, draws, grayscale)
    views = random_blur(views, draws, blur)
    return list(views.contiguous(memory_format=channels_last).chunk(2))
