"""One view of each image: the image itself."""

from torch import Tensor, channels_last

from stages.views._draws import Source
from stages.views._operations import as_floats, piecewise, resize


@piecewise
def make_views(images: Tensor, source: Source, size: int) -> list[Tensor]:
    """The whole image, resized; nothing is drawn.

    uint8 (n, h, w, 3) → one float32 (n, 3, size, size) in [0, 1].
    """
    return [resize(as_floats(images), size).contiguous(memory_format=channels_last)]
