"""CIFAR-10: 60 000 photographs of 32×32 pixels in 10 classes, 10 000 of them the test set (Krizhevsky 2009)."""

from stages.datasets._images import Images
from stages.datasets._published import Part, download, opened, published


def load(*, path: str) -> Images:
    """Train images, then test images, in the order of the files; the split is the published one.

    path: the folder `cifar-10-batches-py`, the python version of the data set; missing files are a DataError.
    """
    from torchvision.datasets import CIFAR10

    train, test = opened("cifar10", CIFAR10, path, {"train": True}, {"train": False})
    return published(Part(train.data, train.targets), Part(test.data, test.targets), train.classes)


def fetch(path: str) -> None:
    """Download the files (170 MB) to `path`, checked against their published md5."""
    from torchvision.datasets import CIFAR10

    download(CIFAR10, path, {})
