"""Operations of strong augmentation, on a whole batch in one pass, each image with its own parameters.

As in `_operations`: functions of images, float32 (n, 3, h, w) in [0, 1], and of parameters (n,); each agrees with its
namesake in torchvision.transforms.v2.functional within 1/255, never waits for the device, and leaves an image with
neutral parameters exactly as it is.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from stages.views._operations import BRIGHTNESS, CONTRAST, SATURATION, luma

SHARPNESS = 3
KINDS = (BRIGHTNESS, CONTRAST, SATURATION, SHARPNESS)
GRAY = 0.5  # what a cutout leaves


class Blend(NamedTuple):
    """int64 (n,), one of KINDS; float32 (n,), 1 leaves the image, 0 black, its mean gray, its gray, or it smoothed."""

    kind: Tensor
    factor: Tensor


class Tone(NamedTuple):
    """int64 (n,) bits that are kept of a value, 0: all; float32 (n,) from where on values are inverted, 2: never."""

    bits: Tensor
    threshold: Tensor


class Patch(NamedTuple):
    """int64 (n,): the square's center and side in pixels, 0: none; it may hang over the border."""

    row: Tensor
    column: Tensor
    side: Tensor


def enhance(images: Tensor, blend: Blend) -> Tensor:
    """adjust_brightness, adjust_contrast, adjust_saturation or adjust_sharpness, each image by its own."""
    kind, factor = blend.kind[:, None, None, None], blend.factor[:, None, None, None]
    gray = luma(images)
    other = gray * (kind == SATURATION) + gray.mean((2, 3), keepdim=True) * (kind == CONTRAST)
    other = torch.addcmul(other, _smoothed(images), (kind == SHARPNESS).float())
    return torch.addcmul(other * (1 - factor), images, factor).clamp_(0, 1)


def _smoothed(images: Tensor) -> Tensor:
    """Every pixel that has eight neighbors is 5/13 itself and 1/13 of each of them; the border stays."""
    if min(images.shape[2:]) <= 2:
        return images
    around = functional.avg_pool2d(images, 3, stride=1) * (9 / 13)
    inside = torch.add(around, images[:, :, 1:-1, 1:-1], alpha=4 / 13)
    smoothed = images.clone()
    smoothed[:, :, 1:-1, 1:-1] = inside
    return smoothed


def tone(images: Tensor, tone: Tone) -> Tensor:
    """Posterize and solarize; an image has one of them, or neither."""
    bits, threshold = tone.bits[:, None, None, None], tone.threshold[:, None, None, None]
    levels = torch.exp2(bits)
    coarse = torch.minimum((images * levels).floor_(), levels - 1).div_(levels)
    images = torch.where(bits > 0, coarse, images)
    return torch.where(images >= threshold, 1 - images, images)


def autocontrast(images: Tensor, flags: Tensor) -> Tensor:
    """Each channel of the images flagged by bool (n,) stretched to all of [0, 1]; one of a single value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    stretched = (images - low) / torch.where(high > low, high - low, 1)
    return torch.where(flags[:, None, None, None] & (high > low), stretched, images).clamp_(0, 1)


def equalize(images: Tensor, flags: Tensor) -> Tensor:
    """The images flagged by bool (n,) with each channel's 256 values about equally frequent, as PIL rounds it.

    Counting goes by sorting, which, unlike adding up, is the same on every device. Channels with fewer than 255 pixels
    below their highest value stay.
    """
    values = (images * 255.999).long().flatten(2)
    ordered = values.sort(2).values
    every = torch.arange(255, device=images.device).expand(*values.shape[:2], 255).contiguous()
    up_to = torch.searchsorted(ordered, every, right=True)  # pixels of at most 0, 1, … 254
    step = torch.searchsorted(ordered, ordered[:, :, -1:].contiguous()) // 255
    table = ((up_to + step // 2) // step.clamp_min(1)).clamp_(0, 255)
    table = functional.pad(table, (1, 0))
    equalized = table.gather(2, values).view_as(images) / 255
    return torch.where(flags[:, None, None, None] & (step > 0)[..., None], equalized, images)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Affine, bilinear; what comes in from outside is black.

    matrices, float32 (n, 2, 3): where an output pixel (x, y, 1), in pixels from the center, is found in the image. The
    matrix of the identity leaves the image.
    """
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    a, b, c, d, e, f = matrices.flatten(1)[:, :, None, None].unbind(1)
    grid = torch.stack([(a * x + b * y + c) * (2 / width), (d * x + e * y + f) * (2 / height)], dim=-1)
    moved = functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    same = (matrices == torch.eye(2, 3, device=images.device)).flatten(1).all(1)
    return torch.where(same[:, None, None, None], images, moved).clamp_(0, 1)


def cutout(images: Tensor, patch: Patch) -> Tensor:
    """A gray square in each image (DeVries & Taylor 2017, arXiv:1708.04552)."""
    height, width = images.shape[2:]
    rows = _covered(patch.row, patch.side, height)[:, None, :, None]
    columns = _covered(patch.column, patch.side, width)[:, None, None, :]
    return images.masked_fill(rows & columns, GRAY)


def _covered(center: Tensor, side: Tensor, extent: int) -> Tensor:
    """Whether, bool (n, extent): side pixels, from side // 2 before the center on."""
    place = torch.arange(extent, device=center.device) - (center - side // 2)[:, None]
    return (place >= 0) & (place < side[:, None])
