"""CIFAR-10: 60 000 photographs of 32×32 pixels in 10 classes, 10 000 of them the test set (Krizhevsky 2009)."""

from pathlib import Path

import numpy as np

from stages.datasets._images import DataError, Images


def load(*, path: str) -> Images:
    """Train images, then test images, in the order of the files; the split is the published one.

    path: the folder `cifar-10-batches-py`, the python version of the data set; missing files are a DataError.
    """
    from torchvision.datasets import CIFAR10

    try:
        train, test = (CIFAR10(Path(path).parent, train=train) for train in (True, False))
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{path} is missing or damaged ({' '.join(str(error).split())}): `contrail fetch cifar10` downloads it, or "
            f"unpack {CIFAR10.url} into {Path(path).parent}"
        ) from error
    return Images(
        pixels=np.ascontiguousarray(np.concatenate([train.data, test.data])),
        ids=[f"{name}/{row:05d}" for name, part in (("train", train), ("test", test)) for row in range(len(part))],
        labels=np.array(train.targets + test.targets, dtype=np.int64),
        classes=train.classes,
        split=np.repeat(["train", "test"], [len(train), len(test)]),
    )


def fetch(path: str) -> None:
    """Download the files (170 MB) to `path`, checked against their published md5."""
    from torchvision.datasets import CIFAR10

    CIFAR10(Path(path).parent, download=True)
