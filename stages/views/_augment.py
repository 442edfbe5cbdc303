"""Random strong augmentation: a few of fourteen operations, and a gray square.

Parameters are drawn here, a row for every view, and wait in steps for the images, as in `_random`.
"""

import torch
from torch import Tensor

from stages.views._draws import Draws
from stages.views._steps import Step
from stages.views._strong import KINDS, Blend, Patch, Tone, autocontrast, cutout, enhance, equalize, tone, warp

# an image stays, or is changed by one of these; blends stand in the order of KINDS
NAMES = (
    "identity", "autocontrast", "equalize", "posterize", "solarize",
    "brightness", "contrast", "saturation", "sharpness",
    "rotate", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
FULL = {"blend": 0.9, "bits": 4.0, "degrees": 30.0, "shear": 0.3, "translate": 0.3}  # what strength 1 is; solarize: all


def random_augment(draws: Draws, size: int, operations: int, magnitude: float) -> list[Step | None]:
    """`operations` times one of NAMES, each of a strength from 0 to `magnitude`, either way where there are two."""
    steps: list[Step | None] = []
    for _ in range(operations):
        kind = draws.integers(len(NAMES))
        strength, sign = draws.uniform(0, magnitude), 1 - 2 * draws.bernoulli(0.5).float()
        steps += changes(kind, strength, sign, size)
    return steps


def changes(kind: Tensor, strength: Tensor, sign: Tensor, size: int) -> list[Step | None]:
    """The operations `kind`, int64 (n,) in NAMES, of strength 0 … 1 and sign ±1; a step for those that go together."""
    is_ = {name: kind == number for number, name in enumerate(NAMES)}
    bits = (8 - FULL["bits"] * strength).round().long() * is_["posterize"]
    threshold = torch.where(is_["solarize"], 1 - strength, 2.0)
    blend = kind - NAMES.index("brightness")
    blended = (blend >= 0) & (blend < len(KINDS))
    factor = torch.where(blended, 1 + FULL["blend"] * strength * sign, 1.0)
    matrices = _matrices(is_, strength * sign, size)
    return [
        Step(warp, matrices, where=kind >= NAMES.index("rotate")),
        Step(enhance, Blend(blend.clamp(0, len(KINDS) - 1), factor), where=blended),
        Step(tone, Tone(bits, threshold), where=is_["posterize"] | is_["solarize"]),
        Step(autocontrast, is_["autocontrast"], where=is_["autocontrast"]),
        Step(equalize, is_["equalize"], where=is_["equalize"]),
    ]


def _matrices(is_: dict[str, Tensor], signed: Tensor, size: int) -> Tensor:
    """As `warp` takes them, float32 (n, 2, 3): the inverse of a turn, a shear or a shift, or the identity."""
    angle = (FULL["degrees"] * signed * is_["rotate"]).deg2rad()
    across, down = (FULL["shear"] * signed * is_[name] for name in ("shear_x", "shear_y"))
    right, below = (FULL["translate"] * size * signed * is_[name] for name in ("translate_x", "translate_y"))
    cos, sin = angle.cos(), angle.sin()
    top, bottom = torch.stack([cos, across - sin, -right], 1), torch.stack([sin + down, cos, -below], 1)
    return torch.stack([top, bottom], 1)


def random_cutout(draws: Draws, size: int, share: float) -> Step | None:
    """A gray square of `share` of the side, its center anywhere in the view."""
    row, column = draws.integers(size), draws.integers(size)
    side = torch.full_like(row, round(share * size))
    return Step(cutout, Patch(row, column, side), where=None) if share else None
