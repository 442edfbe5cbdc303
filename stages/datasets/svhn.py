"""SVHN: 99 289 house numbers from the street, cropped to 32×32 pixels, 26 032 of them the test set (Netzer 2011)."""

from stages.datasets._images import Images
from stages.datasets._published import Part, download, opened, published

PARTS = ({"split": "train"}, {"split": "test"})


def load(*, path: str) -> Images:
    """Train images, then test images, in the order of the files; the split is the published one, without `extra`.

    path: the folder of train_32x32.mat and test_32x32.mat; missing files are a DataError.
    """
    from torchvision.datasets import SVHN

    train, test = (Part(part.data.transpose(0, 2, 3, 1), part.labels) for part in opened("svhn", SVHN, path, *PARTS))
    return published(train, test, "0123456789")


def fetch(path: str) -> None:
    """Download the files (250 MB) to `path`, checked against their published md5."""
    from torchvision.datasets import SVHN

    download(SVHN, path, *PARTS)
