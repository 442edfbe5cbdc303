"""Image operations on a whole batch in one pass, each image with its own parameters.

Functions of images, float32 (n, 3, h, w) in [0, 1], and of parameters (n,). Each agrees with its namesake in
torchvision.transforms.v2.functional within 1/255. On an accelerator none waits for the device: no shape depends on a
parameter's value, and an image that is to be spared passes through with neutral parameters.

Masks are products of floats where they are as large as the images: torch.where costs twenty multiplications on a CPU.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.errors import ParamsError

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
LUMA = (0.2989, 0.587, 0.114)


class Pixels(NamedTuple):
    """Images as they travel: each in the upper left corner of a canvas; what lies beyond its extent is never seen."""

    values: Tensor  # uint8 (n, h, w, 3)
    extents: Tensor | None  # int64 (n, 2), height and width of each; None: each fills its canvas

    def split(self, count: int) -> list["Pixels"]:
        """Pieces of at most `count` images."""
        values = self.values.split(count)
        extents = [None] * len(values) if self.extents is None else self.extents.split(count)
        return [Pixels(*piece) for piece in zip(values, extents, strict=True)]

    def whole(self, views: int) -> "Box":
        """All of every image, for `views` stacked views."""
        count, height, width, _ = self.values.shape
        zeros = torch.zeros(views * count, dtype=torch.int64, device=self.values.device)
        if self.extents is None:
            return Box(zeros, zeros, zeros + height, zeros + width, zeros > 0)
        heights, widths = self.extents.repeat(views, 1).unbind(1)
        return Box(zeros, zeros, heights, widths, zeros > 0)


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


class Symmetry(NamedTuple):
    """How each square image is laid down: int64 (n,) quarter turns, 0 … 3; bool (n,) the top at the bottom then."""

    quarters: Tensor
    upside_down: Tensor


class Passes(NamedTuple):
    """An order of the images, and which of them, so ordered, the early blends, the turn and the late blends change."""

    order: Tensor
    early: list[slice]
    turned: slice
    late: list[slice]


def as_floats(images: Tensor) -> Tensor:
    """uint8 (n, h, w, 3) → float32 (n, 3, h, w) in [0, 1], column after column in memory, as `resample` begins."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise TypeError(f"images must be torch.uint8 of shape (n, h, w, 3), not {images.dtype} {tuple(images.shape)}")
    return (images.permute(0, 3, 2, 1).contiguous() / 255).mT


def resample(images: Tensor, box: Box, size: int, interpolation: str) -> Tensor:
    """Each box at size × size, antialiased: (m, 3, size, size).

    Of m = views · n boxes the first n show images 0 … n - 1, the next n the same again, and so on. A box is at most as
    large as the canvas.
    """
    outputs = torch.arange(size, device=images.device) + 0.5
    mirrored = torch.where(box.mirrored[:, None], size - outputs, outputs)
    columns = _taps(mirrored, box.left, box.width, images.shape[3], size, interpolation)
    rows = _taps(outputs[None], box.top, box.height, images.shape[2], size, interpolation)
    return _gathered(_gathered(images.mT, *columns).mT, *rows).clamp_(0, 1)  # bicubic weights overshoot


def _taps(
    outputs: Tensor, start: Tensor, length: Tensor, extent: int, size: int, interpolation: str
) -> tuple[Tensor, Tensor]:
    """Which inputs each output takes, int64 (n, size, k), and how much of each, float32; outside the box nothing.

    A pixel's center lies at its number + ½; the kernel widens with the step when a box shrinks (antialiasing).
    """
    radius = 2 if interpolation == "bicubic" else 1
    count = min(extent, math.ceil(2 * radius * max(1, extent / size)))  # a box as large as the canvas needs most
    step = length[:, None] / size
    center = outputs * step  # from the start of the box
    first = start[:, None] + (center - radius * step.clamp_min(1) + 0.5).floor().long()
    inputs = first.clamp(0, extent - count)[:, :, None] + torch.arange(count, device=outputs.device)
    place = inputs - start[:, None, None] + 0.5
    distance = (place - center[:, :, None]).abs_() / step.clamp_min(1)[:, :, None]
    weights = _keys(distance) if interpolation == "bicubic" else (1 - distance).clamp_min_(0)
    weights *= (place > 0) & (place < length[:, None, None])
    return inputs, weights / weights.sum(dim=2, keepdim=True).clamp_min(1e-6)  # an output outside the image is black


def _keys(distance: Tensor) -> Tensor:
    """Keys's cubic kernel with a = -½: ½u²(u - 1) + v²(1 - 2v), u = (2 - t)₊, v = (1 - t)₊ (Keys 1981, eq. 15)."""
    u, v = (2 - distance).clamp_min_(0), (1 - distance).clamp_min_(0)
    return (u * u).mul_(u - 1).mul_(0.5).addcmul_(v * v, 1 - 2 * v)


def _gathered(images: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
    """Row o of view i is the sum over k of weights[i, o, k] · row inputs[i, o, k] of its image: (m, 3, o, w).

    A matrix product whose matrices are nearly all zeros: an embedding bag, the rows of all images being the table.
    """
    count, channels, height, width = images.shape
    views, outputs, taps = weights.shape
    image = torch.arange(views, device=images.device) % count
    plane = image[:, None] * channels + torch.arange(channels, device=images.device)
    rows = (plane * height)[:, :, None, None] + inputs[:, None]
    return functional.embedding_bag(
        rows.view(-1, taps),
        images.reshape(-1, width),
        mode="sum",
        per_sample_weights=weights[:, None].expand(-1, channels, -1, -1).reshape(-1, taps),
    ).view(views, channels, outputs, width)


def color_jitter(images: Tensor, factors: Factors) -> Tensor:
    """Brightness, contrast, saturation and hue in each image's own order, clamped after each.

    The first three blend the image with black, its mean gray and its gray. Turning the hue costs more than a blend, so
    all images turn at once: those of an image's three blends that come before it are made before, the others after.
    """
    before = (factors.order == HUE).int().argmax(dim=1)  # how many blends come before the turn
    slots = torch.arange(3, device=images.device)
    blends = torch.where(slots < before[:, None], factors.order[:, :3], factors.order[:, 1:])
    strengths = torch.stack(factors[:3], dim=1).gather(1, blends)
    turns = torch.zeros_like(factors.brightness) if factors.hue is None else factors.hue
    spared = (strengths == 1).all(dim=1) & (turns == 0)
    order, early, turned, late = _lean(before, spared) if images.device.type == "cpu" else _full(before)
    images, before, blends, strengths = (x.index_select(0, order) for x in (images, before, blends, strengths))
    for slot, rows in enumerate(early):
        _blend_(images[rows], blends[rows, slot], strengths[rows, slot].where(before[rows] > slot, 1))
    if factors.hue is not None:
        _turn_hue_(images[turned], turns[order][turned])
    for slot, rows in enumerate(late):
        _blend_(images[rows], blends[rows, slot], strengths[rows, slot].where(before[rows] <= slot, 1))
    return images.index_select(0, order.argsort())


def _full(before: Tensor) -> Passes:
    """Every change to all images: to most of them a neutral one, but none has to be waited for."""
    every = slice(None)
    return Passes(torch.arange(len(before), device=before.device), [every] * 3, every, [every] * 3)


def _lean(before: Tensor, spared: Tensor) -> Passes:
    """Every change to those images alone that it is for: sorted, they are neighbors, and the spared come last."""
    rank = before.masked_fill(spared, 4)
    *ends, changed, _ = rank.bincount(minlength=5).cumsum(0).tolist()
    return Passes(rank.argsort(), [slice(end, changed) for end in ends], slice(changed), [slice(end) for end in ends])


def _blend_(images: Tensor, blends: Tensor, strengths: Tensor) -> None:
    """Each image in place by its blend: strength · image + (1 - strength) · black, mean gray or gray, clamped."""
    strengths, blends = strengths[:, None, None, None], blends[:, None, None, None]
    gray = luma(images)
    mean = gray.mean(dim=(2, 3), keepdim=True).mul_((1 - strengths) * (blends == CONTRAST))
    other = gray.mul_((1 - strengths) * (blends == SATURATION)).add_(mean)
    torch.addcmul(other, images, strengths, out=images).clamp_(0, 1)


def luma(images: Tensor) -> Tensor:
    """The gray of each pixel, (n, 1, h, w)."""
    red, green, blue = images.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _turn_hue_(images: Tensor, turns: Tensor) -> None:
    """The hue in place turned by `turns` (n,) of the circle at the same value and saturation of HSV.

    Both stay when each pixel's lowest and highest channels do, so only the place on the hue hexagon is computed:

        red 0 ─ yellow 1 ─ green 2 ─ cyan 3 ─ blue 4 ─ magenta 5 ─ red 6
    """
    red, green, blue = images.split(1, dim=1)
    low = torch.minimum(red, green)
    high = torch.maximum(red, green)
    low, high = torch.minimum(low, blue, out=low), torch.maximum(high, blue, out=high)
    chroma = high - low
    not_red, not_green = (high - red).sign_(), (high - green).sign_()
    # chroma · place = green - blue if red is highest; 2 chroma + blue - red if green; 4 chroma + red - green if blue
    rest = (chroma * 2).sub_(red).sub_(green).sub_(blue)
    if_blue, if_green = torch.add(rest, red, alpha=3), torch.add(rest, blue, alpha=3)
    place = (green - blue).addcmul_(if_green.addcmul_(if_blue, not_green), not_red)
    place = place.div_(chroma.mul_(6).clamp_min_(1e-8)).add_(turns[:, None, None, None])  # of the circle
    place -= place.floor()
    # of the chroma, red gets 6 |place - 1/2| - 1, green 2 - 6 |place - 1/3|, blue 2 - 6 |place - 2/3|
    channel = torch.arange(3, device=images.device)[:, None, None]
    is_red = (channel == 0).float()
    share = (place - (channel / 3 + is_red / 2)).abs_()
    share = torch.addcmul(2 - 3 * is_red, share, 12 * is_red - 6, out=share).clamp_(0, 1)
    torch.lerp(low, high, share, out=images)


def grayscale(images: Tensor, flags: Tensor) -> Tensor:
    """The images flagged by bool (n,) in gray, still with three channels."""
    gray = flags.to(images.dtype)[:, None, None, None]
    return torch.addcmul(luma(images) * gray, images, 1 - gray)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Blur with a kernel × kernel Gaussian of `sigma` (n,) pixels, reflected at the border; sigma 0 changes nothing."""
    radius = kernel // 2
    if radius >= min(images.shape[2:]):
        sides = " × ".join(map(str, images.shape[2:]))
        raise ParamsError(
            f"a blur kernel of {kernel} pixels reaches beyond what a view of {sides} can reflect: "
            f"set it to {2 * min(images.shape[2:]) - 1} at most"
        )
    distance = torch.arange(-radius, radius + 1, device=images.device)
    weights = (-0.5 * (distance / sigma[:, None].clamp_min(1e-3)) ** 2).exp()
    weights /= weights.sum(dim=1, keepdim=True)
    for _ in range(2):
        images = images.mT
        last = images.shape[2] - 1
        inputs = torch.arange(last + 1, device=images.device)[:, None] + distance
        inputs = last - (last - inputs.abs()).abs()  # reflected at either border
        images = _gathered(images, inputs[None], weights[:, None].expand(-1, last + 1, -1))
    return images.clamp_max_(1)  # the sum of rounded weights may be a little more than 1


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Counterclockwise about the center by `degrees` (n,), bilinear; what comes in from outside is black."""
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    angle = degrees.deg2rad()[:, None, None]
    across, down = angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y
    grid = torch.stack([across * (2 / width), down * (2 / height)], dim=-1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False).clamp_(0, 1)


def turn(images: Tensor, symmetry: Symmetry) -> Tensor:
    """Square images turned by quarters counterclockwise, then upside down: their pixels in another order, no sum."""
    side = images.shape[2]
    straight = torch.arange(side * side, device=images.device).view(side, side)
    turned = torch.stack([straight.rot90(quarters) for quarters in range(4)])
    orders = torch.cat([turned, turned.flip(1)]).flatten(1)  # the eight symmetries of the square
    order = orders[symmetry.quarters + 4 * symmetry.upside_down]
    return images.flatten(2).gather(2, order[:, None].expand(-1, 3, -1)).view_as(images)


def solarize(images: Tensor, flags: Tensor, threshold: float) -> Tensor:
    """The images flagged by bool (n,) with every value from `threshold` on inverted."""
    return torch.where(flags[:, None, None, None] & (images >= threshold), 1 - images, images)
