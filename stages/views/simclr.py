"""SimCLR's two views: color gives an image away, so color is changed most."""

from torch import Tensor

from pipeline.params import NonNegative, Probability
from stages.views._chain import chain
from stages.views._draws import Source
from stages.views._operations import Pixels
from stages.views._random import Blur, Crop, Jitter
from stages.views._steps import render


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
    blur: Blur,
) -> list[Tensor]:
    """Draw two views of each image, in one pass.

          ┌─ crop ─ flip ─ rotate ─ jitter ─ grayscale ─ blur ─→ view 0
    image ┤
          └─ crop ─ flip ─ rotate ─ jitter ─ grayscale ─ blur ─→ view 1

    n images → two float32 (n, 3, size, size) in [0, 1]. With strength s the paper takes area 0.08 to 1, ratio 3/4 to
    4/3, flip 0.5, jitter (0.8s, 0.8s, 0.8s, 0.2s) with probability 0.8, grayscale 0.2, blur 0.5 of a tenth of the size
    with sigma 0.1 to 2; for CIFAR s = 0.5 and no blur. Rotation, in degrees, is an addition.
    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", 2020, App. A, B.9.
    """
    steps = chain(
        source.views(2, first=0),
        images,
        size,
        views=2,
        crop=crop,
        flip=flip,
        rotation=rotation,
        jitter=jitter,
        grayscale=grayscale,
        blur=blur,
        blurred=[blur.probability],
    )
    return render(images, source, size, steps, 2)
