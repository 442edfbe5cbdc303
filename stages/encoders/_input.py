"""The images of a batch as a model takes them: each without the canvas around it."""

import torch
from torch import Tensor

from stages.encoders._model import Model
from stages.views._operations import Pixels


def trimmed(images: Pixels) -> Tensor | list[Tensor]:
    """uint8 (n, h, w, 3), or where sizes differ a list of n (h, w, 3)."""
    if images.extents is None:
        return images.values
    return [
        image[:height, :width] for image, (height, width) in zip(images.values, images.extents.tolist(), strict=True)
    ]


def preprocessed(model: Model, images: Pixels) -> Tensor:
    """Normalized float32 (n, 3, side, side): what the model's encoder would be given."""
    given = trimmed(images)
    if isinstance(given, Tensor):
        return model.preprocess(given)
    return torch.cat([model.preprocess(image[None]) for image in given])
