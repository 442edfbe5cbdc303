"""Views a second: a batch at once, each image with its own parameters, against one image after the other.

The policy is SimCLR's, for 32×32 without blur as the paper has it for CIFAR-10, for 96×96 and 224×224 with; two
normalized float views of each image, from uint8 pixels in memory. One thread, one process: views/s per core.
"""

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks._networks import SMALL, arguments, photographs
from benchmarks._paired import Record, Side, compared, cores, plainly, rounds, side
from benchmarks._results import command
from pipeline.hardware import set_up
from stages.views._draws import Source
from stages.views._operations import Pixels
from stages.views.simclr import make_views

COMMAND = f"python -m {__spec__.name}"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Case(NamedTuple):
    """A size of images, the images of one call, and the calls' images on the slow side of a round."""

    side: int
    batch: int
    slow: int
    target: str  # against torchvision


CASES = (Case(32, 256, 256, "≥ 6"), Case(96, 64, 64, "≥ 2"), Case(224, 16, 16, ""))


def policy(size: int) -> dict[str, Any]:
    """The arguments of the view policy: the recipe's at 32 pixels; with blur of a tenth of the size above."""
    found = dict(arguments(SMALL)["views"].arguments)
    if size > 32:
        found["blur"] = found["blur"].model_copy(update={"probability": 0.5, "kernel": size // 20 * 2 + 1})
    return found


def images_of(case: Case, count: int) -> Tensor:
    """uint8 (count, side, side, 3)."""
    if case.side == 32:
        return torch.from_numpy(np.ascontiguousarray(photographs(count).pixels))
    return torch.randint(0, 256, (count, case.side, case.side, 3), dtype=torch.uint8)


def ours(images: Tensor, size: int) -> Callable[[], list[Tensor]]:
    """As a training makes them."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    found, index, epoch = policy(size), torch.arange(len(images)), iter(range(10**9))

    def work() -> list[Tensor]:
        views = make_views(Pixels(images, None), Source(0, next(epoch), index), size, **found)
        return [(view - mean) / std for view in views]

    return work


def torchvision(images: Tensor, size: int) -> Callable[[], list[Tensor]]:
    """transforms.v2 on one image after the other, stacked: from PIL images or uint8 tensors, what is faster here."""
    from PIL import Image

    rows = [list(images.permute(0, 3, 1, 2).contiguous()), [Image.fromarray(image.numpy()) for image in images]]
    transform = _transform(size)
    ways = [lambda kind=kind: [torch.stack([transform(image) for image in kind]) for _ in range(2)] for kind in rows]
    return min(ways, key=seconds)


def seconds(work: Callable[[], object]) -> float:
    """How long the second of two calls takes."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _transform(size: int) -> Any:
    from torchvision.transforms import v2

    found = policy(size)
    crop, jitter, blur = found["crop"], found["jitter"], found["blur"]
    colors = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    parts = [
        v2.RandomResizedCrop(size, crop.scale, crop.ratio),
        v2.RandomHorizontalFlip(found["flip"]),
        v2.RandomApply([v2.ColorJitter(*colors)], jitter.probability),
        v2.RandomGrayscale(found["grayscale"]),
    ]
    if blur.probability:
        parts.append(v2.RandomApply([v2.GaussianBlur(blur.kernel, blur.sigma)], blur.probability))
    return v2.Compose([*parts, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])


def kornia(images: Tensor, size: int) -> Callable[[], list[Tensor]]:
    """A sequence of batched augmentations with parameters of their own for each image."""
    import kornia.augmentation as augmentation

    found = policy(size)
    crop, jitter, blur = found["crop"], found["jitter"], found["blur"]
    colors = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    parts = [
        augmentation.RandomResizedCrop((size, size), crop.scale, crop.ratio),
        augmentation.RandomHorizontalFlip(p=found["flip"]),
        augmentation.ColorJitter(*colors, p=jitter.probability),
        augmentation.RandomGrayscale(p=found["grayscale"]),
    ]
    if blur.probability:
        parts.append(augmentation.RandomGaussianBlur((blur.kernel, blur.kernel), blur.sigma, p=blur.probability))
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    transform = augmentation.AugmentationSequential(*parts, augmentation.Normalize(mean, std), data_keys=["input"])
    rows = images.permute(0, 3, 1, 2).contiguous()

    @torch.no_grad()
    def work() -> list[Tensor]:
        floats = rows.float() / 255
        return [transform(floats) for _ in range(2)]

    return work


def lightly(images: Tensor, size: int) -> Callable[[], list[Tensor]]:
    """Its SimCLR transform on PIL images, one after the other, stacked."""
    from lightly.transforms import SimCLRTransform
    from PIL import Image

    found = policy(size)
    transform = SimCLRTransform(
        input_size=size,
        cj_strength=found["jitter"].brightness / 0.8,
        gaussian_blur=found["blur"].probability,
        normalize={"mean": list(MEAN), "std": list(STD)},
    )
    pictures = [Image.fromarray(image.numpy()) for image in images]
    return lambda: [torch.stack(views) for views in zip(*map(transform, pictures), strict=True)]


PEERS = {"torchvision": torchvision, "kornia": kornia, "lightly": lightly}


def measured(case: Case, peers: tuple[str, ...], count: int, threads: int) -> dict[str, list[float]]:
    """Views a second of ours and of each peer, round by round."""
    set_up(arguments(SMALL, threads=threads, device="cpu")["hardware"])
    images = images_of(case, 4 * case.batch)
    sides: dict[str, Side] = {"ours": side(8 * case.batch, in_batches(images, case))}
    for name in peers:
        sides[name] = plainly(side(2 * case.slow, PEERS[name](images[: case.slow], case.side)))
    return rounds(sides, count)


def in_batches(images: Tensor, case: Case) -> Callable[[], object]:
    works = [ours(part, case.side) for part in images.split(case.batch)]
    return lambda: [work() for work in works]


def measure(smoke: bool) -> dict[str, Record]:
    """Every size against torchvision, 32×32 against kornia and lightly too, and against kornia on all cores."""
    cases = (Case(32, 8, 8, ""), Case(96, 2, 2, "")) if smoke else CASES
    count, records = (2 if smoke else 9), {}
    peers = tuple(name for name in PEERS if not smoke or find_spec(name))
    for case in cases:
        named = peers if case.side == 32 else ("torchvision",)
        found = measured(case, named, count, threads=1)
        for peer in named:
            records[f"views_vs_{peer}_{case.side}"] = compared(
                found["ours"],
                found[peer],
                what=f"views/s of {case.side}×{case.side} over {WAYS[peer]}, one core each",
                unit="views/s",
                target=case.target if peer == "torchvision" else "",
                command=COMMAND,
            )
    if "kornia" not in peers:
        return records
    found = measured(cases[0], ("kornia",), count, threads=cores())
    records["views_vs_kornia_32_all_cores"] = compared(
        found["ours"],
        found["kornia"],
        what=f"views/s of 32×32 over {WAYS['kornia']}, {cores()} threads each",
        unit="views/s",
        target="",
        command=COMMAND,
    )
    return records


WAYS = {
    "torchvision": "torchvision's transforms.v2, image by image",
    "kornia": "kornia's batched augmentations",
    "lightly": "lightly's SimCLRTransform, image by image",
}

if __name__ == "__main__":
    command(measure)
