"""Two views of a tissue tile: it has no up and no down, stains vary from slide to slide, and gray would lose them."""

from torch import Tensor

from pipeline.params import Probability
from stages.views._draws import Source
from stages.views._operations import Pixels
from stages.views._random import Blur, Crop, Jitter, random_blur, random_crop, random_jitter, random_turn
from stages.views._steps import render


def make_views(
    images: Pixels,
    source: Source,
    size: int,
    *,
    crop: Crop,
    flip: Probability,
    vertical_flip: Probability,
    quarter_turns: bool,
    jitter: Jitter,
    blur: Blur,
) -> list[Tensor]:
    """Draw two views of each image, in one pass.

          ┌─ crop ─ flip ─ quarter turn ─ vertical flip ─ jitter ─ blur ─→ view 0
    image ┤
          └─ crop ─ flip ─ quarter turn ─ vertical flip ─ jitter ─ blur ─→ view 1

    n images → two float32 (n, 3, size, size) in [0, 1]. The paper takes area 0.2 to 1, both flips 0.5, turns by 0°,
    90°, 180° and 270°, jitter (0.8s, 0.8s, 0.8s, 0.2s) with probability 0.8 and no grayscale: views made for
    photographs of things have to be fitted to tissue. Turns and vertical flips only change the order of the pixels.
    Source: Stacke et al., "Learning Representations with Contrastive Self-Supervised Learning for Histopathology
    Applications", 2022 (arXiv:2112.05760).
    """
    draws = source.views(2, first=0)
    steps = [
        random_crop(draws, images, size, crop, flip, views=2),
        random_turn(draws, quarter_turns, vertical_flip),
        random_jitter(draws, jitter),
        random_blur(draws, blur, [blur.probability]),
    ]
    return render(images, source, size, steps, 2)
