"""Image operations on a whole batch in one pass, each image with its own parameters.

Pure functions of images, float32 (n, 3, h, w) in [0, 1], and of parameters (n,). Each agrees with its namesake in
torchvision.transforms.v2.functional within 1/255. None waits for the device: no shape depends on a parameter's value,
and an image that is to be spared passes through with neutral parameters.

Masks are products of floats where they are as large as the images: torch.where costs twenty multiplications on a CPU.
"""

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.errors import ParamsError
from stages.views._draws import Source

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
LUMA = (0.2989, 0.587, 0.114)
PIECE = 2**18  # float32 values of one view that fit a CPU's cache along with the temporaries


class Box(NamedTuple):
    """The part of each image that a view shows: int64 (n,) in pixels, bool (n,). It may hang over the border."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    mirrored: Tensor


class Factors(NamedTuple):
    """Color changes: float32 (n,) three blend factors and a turn of the hue; int64 (n, 4) the order of the four."""

    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor | None  # None: no image is turned
    order: Tensor


def as_floats(images: Tensor, views: int = 1) -> Tensor:
    """uint8 (n, h, w, 3) → float32 (views·n, 3, h, w) in [0, 1], the views one after the other."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise TypeError(f"images must be torch.uint8 of shape (n, h, w, 3), not {images.dtype} {tuple(images.shape)}")
    return images.permute(0, 3, 1, 2).contiguous().repeat(views, 1, 1, 1) / 255


def resize(images: Tensor, size: int) -> Tensor:
    """The whole image at size × size, bilinear and antialiased."""
    count, _, height, width = images.shape
    if height == width == size:
        return images
    zeros = torch.zeros(count, dtype=torch.int64, device=images.device)
    return resample(images, Box(zeros, zeros, zeros + height, zeros + width, zeros > 0), size, "bilinear")


def resample(images: Tensor, box: Box, size: int, interpolation: str) -> Tensor:
    """Each image's box at size × size, antialiased: rows · image · columnsᵀ with the weights of each image."""
    outputs = torch.arange(size, device=images.device) + 0.5
    mirrored = torch.where(box.mirrored[:, None], size - outputs, outputs)
    rows = _weights(outputs, box.top, box.height, images.shape[2], size, interpolation)
    columns = _weights(mirrored, box.left, box.width, images.shape[3], size, interpolation)
    return _separable(rows, images, columns).clamp_(0, 1)  # bicubic weights overshoot


def _separable(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    return rows[:, None] @ images @ columns[:, None].mT


def _weights(outputs: Tensor, start: Tensor, length: Tensor, extent: int, size: int, interpolation: str) -> Tensor:
    """(n, size, extent): how much each output pixel takes of each input pixel; outside the box nothing.

    A pixel's center lies at its number + ½; the kernel widens with the step when a box shrinks (antialiasing).
    """
    step = length[:, None] / size
    inputs = torch.arange(extent, device=outputs.device) + 0.5 - start[:, None]  # from the start of the box
    distance = (inputs[:, None, :] - (outputs * step)[:, :, None]).abs_() / step.clamp_min(1)[:, :, None]
    weights = _keys(distance) if interpolation == "bicubic" else (1 - distance).clamp_min_(0)
    weights *= ((inputs > 0) & (inputs < length[:, None])).float()[:, None, :]
    return weights / weights.sum(dim=2, keepdim=True).clamp_min(1e-6)  # an output outside the image is black


def _keys(distance: Tensor) -> Tensor:
    """Keys's cubic kernel with a = -½: ½u²(u - 1) + v²(1 - 2v), u = (2 - t)₊, v = (1 - t)₊ (Keys 1981, eq. 15)."""
    u, v = (2 - distance).clamp_min_(0), (1 - distance).clamp_min_(0)
    return (u * u).mul_(u - 1).mul_(0.5).addcmul_(v * v, 1 - 2 * v)


def color_jitter(images: Tensor, factors: Factors) -> Tensor:
    """Brightness, contrast, saturation and hue in each image's own order, clamped after each.

    The first three blend the image with black, its mean gray and its gray. Turning the hue costs more than a blend, so
    all images turn at once: those of an image's three blends that come before it are made before, the others after.
    """
    turn = (factors.order == HUE).int().argmax(dim=1, keepdim=True)
    slots = torch.arange(3, device=images.device)
    blends = torch.where(slots < turn, factors.order[:, :3], factors.order[:, 1:])
    strengths = torch.stack(factors[:3], dim=1).gather(1, blends)
    if factors.hue is None:
        return _blended(images, blends, strengths)
    images = _blended(images, blends, strengths.where(slots < turn, 1))
    return _blended(turn_hue(images, factors.hue), blends, strengths.where(slots >= turn, 1))


def _blended(images: Tensor, blends: Tensor, strengths: Tensor) -> Tensor:
    """The three blends (n, 3) one after the other, with these factors."""
    gray, mean = (1 - strengths) * (blends == SATURATION), (1 - strengths) * (blends == CONTRAST)
    for slot in range(3):
        images = _blend(images, strengths[:, slot], gray[:, slot], mean[:, slot])
    return images


def _blend(images: Tensor, keep: Tensor, gray: Tensor, mean: Tensor) -> Tensor:
    """The clamped keep · image + gray · its gray + mean · the mean of its gray; the three weights are (n,)."""
    luma = _luma(images)
    other = (luma.mean(dim=(2, 3)) * mean[:, None])[:, :, None, None] + luma * gray[:, None, None, None]
    return torch.addcmul(other, images, keep[:, None, None, None]).clamp_(0, 1)


def _luma(images: Tensor) -> Tensor:
    red, green, blue = images.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """The hue turned by `turns` (n,) of the circle at the same value and saturation of HSV.

    Both stay when each pixel's lowest and highest channels do, so only the place on the hue hexagon is computed:

        red 0 ─ yellow 1 ─ green 2 ─ cyan 3 ─ blue 4 ─ magenta 5 ─ red 6
    """
    red, green, blue = images.split(1, dim=1)
    low = torch.minimum(torch.minimum(red, green), blue)
    high = torch.maximum(torch.maximum(red, green), blue)
    chroma = high - low
    not_red, not_green = (high - red).sign_(), (high - green).sign_()
    # chroma · place = green - blue if red is highest; 2 chroma + blue - red if green; 4 chroma + red - green if blue
    rest = (red + green).add_(blue).sub_(chroma, alpha=2)
    place = (3 * red - rest).mul_(not_green).add_(blue, alpha=3).sub_(rest).mul_(not_red).add_(green).sub_(blue)
    place = place.div_(chroma.clamp_min(1e-9)).add_(6 * turns[:, None, None, None])
    place -= (place / 6).floor_().mul_(6)
    channels = [(place - 3).abs_().sub_(1), (place - 2).abs_().neg_().add_(2), (place - 4).abs_().neg_().add_(2)]
    return torch.cat(channels, dim=1).clamp_(0, 1).mul_(chroma).add_(low).clamp_(0, 1)


def grayscale(images: Tensor, flags: Tensor) -> Tensor:
    """The images flagged by bool (n,) in gray, still with three channels."""
    gray = flags.to(images.dtype)[:, None, None, None]
    return torch.addcmul(_luma(images) * gray, images, 1 - gray)


def gaussian_blur(images: Tensor, kernel: int, sigma: Tensor) -> Tensor:
    """Blur with a kernel × kernel Gaussian of `sigma` (n,) pixels, reflected at the border; sigma 0 changes nothing."""
    radius = kernel // 2
    if radius >= min(images.shape[2:]):
        sides = " × ".join(map(str, images.shape[2:]))
        raise ParamsError(f"a blur kernel of {kernel} pixels reaches beyond what a view of {sides} can reflect")
    distance = torch.arange(radius + 1, device=images.device)
    taps = (-0.5 * (distance / sigma[:, None].clamp_min(1e-3)) ** 2).exp()
    taps /= 2 * taps.sum(dim=1, keepdim=True) - taps[:, :1]
    return _separable(_smoothing(taps, images.shape[2]), images, _smoothing(taps, images.shape[3]))


def _smoothing(taps: Tensor, extent: int) -> Tensor:
    """(n, extent, extent): how much each output takes of each input, directly and by reflection at either border."""
    i, j = torch.arange(extent, device=taps.device)[:, None], torch.arange(extent, device=taps.device)
    distance = torch.arange(taps.shape[1], device=taps.device)[:, None, None]
    last = extent - 1
    ways = ((i - j).abs() == distance).float()
    ways += (i + j == distance) & (j > 0)
    ways += (2 * last - i - j == distance) & (j < last)
    return (taps @ ways.flatten(1)).view(-1, extent, extent)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Counterclockwise about the center by `degrees` (n,), bilinear; what comes in from outside is black."""
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    angle = degrees.deg2rad()[:, None, None]
    across, down = angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y
    grid = torch.stack([across * (2 / width), down * (2 / height)], dim=-1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False).clamp_(0, 1)


def solarize(images: Tensor, flags: Tensor, threshold: float) -> Tensor:
    """The images flagged by bool (n,) with every value from `threshold` on inverted."""
    return torch.where(flags[:, None, None, None] & (images >= threshold), 1 - images, images)


def piecewise(make_views: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
    """Make the views of a batch on the CPU a cache-sized piece at a time; on an accelerator all at once.

    The draws of an image do not depend on its batch, so the views are the same.
    """

    @wraps(make_views)
    def in_pieces(images: Tensor, source: Source, size: int, **arguments: object) -> list[Tensor]:
        if len(images) != len(source.index):
            raise ValueError(f"{len(images)} images need as many indices, not {len(source.index)}")
        count = max(1, PIECE // (3 * size * size)) if images.device.type == "cpu" else len(images)
        if len(images) <= count:
            return make_views(images, source, size, **arguments)
        parts = [
            make_views(part, Source(source.seed, source.epoch, index), size, **arguments)
            for part, index in zip(images.split(count), source.index.split(count), strict=True)
        ]
        return [torch.cat(views) for views in zip(*parts, strict=True)]

    return in_pieces
