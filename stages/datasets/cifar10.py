"""CIFAR-10: 60 000 photographs of 32×32 pixels in 10 classes, 10 000 of them the test set (Krizhevsky 2009)."""

import numpy as np

from stages.datasets._images import DataError, Images


def load(*, path: str, download: bool) -> Images:
    """Train images, then test images, in the order of the files; the split is the published one.

    path: the folder that holds `cifar-10-batches-py`, the python version of the data set.
    download: fetch it (170 MB) into `path` if it is not there; if false, missing files are a DataError.
    """
    from torchvision.datasets import CIFAR10

    try:
        train, test = (CIFAR10(path, train=train, download=download) for train in (True, False))
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{path}/{CIFAR10.base_folder} is missing or damaged ({' '.join(str(error).split())}): "
            f"set `download: true`, or unpack {CIFAR10.url} into {path}"
        ) from error
    return Images(
        pixels=np.ascontiguousarray(np.concatenate([train.data, test.data])),
        ids=[f"{name}/{row:05d}" for name, part in (("train", train), ("test", test)) for row in range(len(part))],
        labels=np.array(train.targets + test.targets, dtype=np.int64),
        classes=train.classes,
        split=np.repeat(["train", "test"], [len(train), len(test)]),
    )
