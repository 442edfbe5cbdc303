"""Fashion-MNIST: 70 000 gray pictures of 28×28 pixels in 10 classes, 10 000 of them the test set (Xiao 2017)."""

from stages.datasets._images import Images
from stages.datasets._published import Part, download, opened, published


def load(*, path: str) -> Images:
    """Train images, then test images, in the order of the files; the split is the published one, channels are equal.

    path: the folder `FashionMNIST`, with the four unpacked files in its sub-folder `raw`; missing ones are a DataError.
    """
    from torchvision.datasets import FashionMNIST

    both = opened("fashion_mnist", FashionMNIST, path, {"train": True}, {"train": False})
    train, test = (Part(part.data.numpy(), part.targets.numpy()) for part in both)
    return published(train, test, FashionMNIST.classes)


def fetch(path: str) -> None:
    """Download the files (31 MB) to `path`, checked against their published md5."""
    from torchvision.datasets import FashionMNIST

    download(FashionMNIST, path, {})
