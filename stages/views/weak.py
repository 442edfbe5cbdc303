"""One view for training with labels: a crop, a flip and, if wanted, a small rotation."""

from torch import Tensor

from pipeline.params import NonNegative, Probability
from stages.views._chain import placed
from stages.views._draws import Source
from stages.views._operations import Pixels
from stages.views._random import AnyCrop
from stages.views._steps import render


def make_views(
    images: Pixels, source: Source, size: int, *, crop: AnyCrop, flip: Probability, rotation: NonNegative
) -> list[Tensor]:
    """Draw one view of each image.

        image ─ crop ─ flip ─ rotate ─→ view

    n images → one float32 (n, 3, size, size) in [0, 1]. `crop` is a resized crop {scale, ratio, interpolation}
    (ImageNet: area 0.2 to 1) or a padded one {padding} (CIFAR: 4 pixels; He et al. 2016, §4.2); `rotation` is in
    degrees, either way.
    """
    steps = placed(source.view(0), images, size, crop=crop, flip=flip, rotation=rotation)
    return render(images, source, size, steps, 1)
