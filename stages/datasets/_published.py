"""Data sets that torchvision knows: it downloads their files, checks them, and says how they are written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stages.datasets._images import DataError, Images


class Part(NamedTuple):
    """The published train or test part of a data set."""

    pixels: np.ndarray  # uint8 (n, h, w, 3) or, if gray, (n, h, w)
    labels: Sequence[int] | np.ndarray


def opened(name: str, kind: Any, path: str, *parts: dict[str, Any]) -> list[Any]:
    """The data set `kind` of torchvision at `path`, once for the arguments of each part.

    name: of the source, for the sentence of the DataError if files are missing or damaged.
    """
    root = home(kind, path)
    try:
        return [kind(root, **part) for part in parts]
    except Exception as error:  # on damaged files readers raise nearly anything
        raise damaged(name, kind, path, error) from error


def home(kind: Any, path: str) -> Path:
    """Where torchvision looks for `kind`, so that it finds its files at `path`; DataError if it cannot."""
    folder = FOLDERS.get(kind.__name__)
    if folder and Path(path).name != folder:
        raise DataError(f"the folder {path} has to be called {folder}, as it is published: write data/raw/{folder}")
    return Path(path).parent if folder else Path(path)


FOLDERS = {  # as torchvision makes them; files of the others lie where they are told to
    "CIFAR10": "cifar-10-batches-py",
    "CIFAR100": "cifar-100-python",
    "EuroSAT": "eurosat",
    "FashionMNIST": "FashionMNIST",
    "MNIST": "MNIST",
    "STL10": "stl10_binary",
}


def damaged(name: str, kind: Any, path: str, error: Exception) -> DataError:
    """That files at `path` are missing or not what was published, and what to do."""
    reason = " ".join(str(error).split()) or type(error).__name__
    unpack = f", or unpack {kind.url} into {home(kind, path)}" if hasattr(kind, "url") else ""
    return DataError(f"{path} is missing or damaged ({reason}): `contrail fetch {name}` downloads it{unpack}")


def published(train: Part, test: Part, classes: Sequence[str]) -> Images:
    """Train images, then test images, in the order of the files; the split is the published one."""
    shape = (len(train.labels) + len(test.labels), *train.pixels.shape[1:])
    pixels = np.concatenate([train.pixels, test.pixels], out=np.empty(shape, np.uint8))  # image by image in memory
    if pixels.ndim == 3:
        pixels = np.repeat(pixels[..., None], 3, axis=3)
    sizes = {"train": len(train.labels), "test": len(test.labels)}
    return Images(
        pixels=pixels,
        ids=[f"{split}/{row:05d}" for split, size in sizes.items() for row in range(size)],
        labels=np.concatenate([train.labels, test.labels]).astype(np.int64),
        classes=list(classes),
        split=np.repeat(list(sizes), list(sizes.values())),
    )


def download(kind: Any, path: str, *parts: dict[str, Any]) -> None:
    """Download the files to `path`, checked against their published md5; DataError if that fails."""
    try:
        for part in parts:
            kind(home(kind, path), download=True, **part)
    except RuntimeError as error:
        raise DataError(f"{path} could not be downloaded: {' '.join(str(error).split())}") from error
