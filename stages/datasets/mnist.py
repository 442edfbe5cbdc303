"""MNIST: 70 000 handwritten digits of 28×28 pixels, gray, 10 000 of them the test set (LeCun 1998)."""

from stages.datasets._images import Images
from stages.datasets._published import Part, download, opened, published


def load(*, path: str) -> Images:
    """Train images, then test images, in the order of the files; the split is the published one, channels are equal.

    path: the folder `MNIST`, with the four unpacked files in its sub-folder `raw`; missing ones are a DataError.
    """
    from torchvision.datasets import MNIST

    both = opened("mnist", MNIST, path, {"train": True}, {"train": False})
    train, test = (Part(part.data.numpy(), part.targets.numpy()) for part in both)
    return published(train, test, "0123456789")


def fetch(path: str) -> None:
    """Download the files (12 MB) to `path`, checked against their published md5."""
    from torchvision.datasets import MNIST

    download(MNIST, path, {})
