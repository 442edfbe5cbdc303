"""One view of each image: the image itself."""

from torch import Tensor

from stages.views._draws import Source
from stages.views._operations import Pixels
from stages.views._random import whole
from stages.views._steps import render


def make_views(images: Pixels, source: Source, size: int) -> list[Tensor]:
    """The whole image, resized; nothing is drawn.

    n images → one float32 (n, 3, size, size) in [0, 1].
    """
    return render(images, source, size, [whole(images, size)], 1)
