"""CIFAR-100: 60 000 photographs of 32×32 pixels in 100 classes, 10 000 of them the test set (Krizhevsky 2009)."""

from stages.datasets._images import Images
from stages.datasets._published import Part, download, opened, published


def load(*, path: str) -> Images:
    """Train images, then test images, in the order of the files; the split is the published one, the labels are fine.

    path: the folder `cifar-100-python`, the python version of the data set; missing files are a DataError.
    """
    from torchvision.datasets import CIFAR100

    train, test = opened("cifar100", CIFAR100, path, {"train": True}, {"train": False})
    return published(Part(train.data, train.targets), Part(test.data, test.targets), train.classes)


def fetch(path: str) -> None:
    """Download the files (169 MB) to `path`, checked against their published md5."""
    from torchvision.datasets import CIFAR100

    download(CIFAR100, path, {})
