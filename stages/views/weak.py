"""One view for training with labels: a crop, a flip and, if wanted, a small rotation."""

from torch import Tensor, channels_last

from pipeline.params import NonNegative, Probability
from stages.views._draws import Source
from stages.views._operations import as_floats, piecewise
from stages.views._random import AnyCrop, random_crop, random_rotation


@piecewise
def make_views(
    images: Tensor, source: Source, size: int, *, crop: AnyCrop, flip: Probability, rotation: NonNegative
) -> list[Tensor]:
    """Draw one view of each image.

        image ─ crop ─ flip ─ rotate ─→ view

    uint8 (n, h, w, 3) → one float32 (n, 3, size, size) in [0, 1]. `crop` is a resized crop {scale, ratio,
    interpolation} (ImageNet: area 0.2 to 1) or a padded one {padding} (CIFAR: 4 pixels; He et al. 2016, §4.2);
    `rotation` is in degrees, either way.
    """
    draws = source.view(0)
    views = random_crop(as_floats(images), draws, size, crop, flip)
    return [random_rotation(views, draws, rotation).contiguous(memory_format=channels_last)]
