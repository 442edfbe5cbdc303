"""One view for training with labels: a crop, a flip and, if wanted, a small rotation."""

from torch import Tensor

from pipeline.params import NonNegative, Probability
from stages.views._draws import Source
from stages.views._operations import Pixels
from stages.views._random import AnyCrop, Crop, random_crop, random_rotation, random_shift, whole
from stages.views._steps import Step, render


def make_views(
    images: Pixels, source: Source, size: int, *, crop: AnyCrop, flip: Probability, rotation: NonNegative
) -> list[Tensor]:
    """Draw one view of each image.

        image ─ crop ─ flip ─ rotate ─→ view

    n images → one float32 (n, 3, size, size) in [0, 1]. `crop` is a resized crop {scale, ratio, interpolation}
    (ImageNet: area 0.2 to 1) or a padded one {padding} (CIFAR: 4 pixels; He et al. 2016, §4.2); `rotation` is in
    degrees, either way.
    """
    draws = source.view(0)
    steps: list[Step | None]
    if isinstance(crop, Crop):
        steps = [random_crop(draws, images, size, crop, flip, views=1)]
    else:
        steps = [whole(images, size), random_shift(draws, size, crop, flip)]
    return render(images, source, size, [*steps, random_rotation(draws, rotation)], 1)
