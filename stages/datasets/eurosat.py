"""EuroSAT: 27 000 satellite images (Sentinel-2, RGB) of 64×64 pixels in 10 kinds of land use (Helber 2019)."""

import numpy as np

from stages.datasets import _listing
from stages.datasets._fitting import OneShape
from stages.datasets._images import Images
from stages.datasets._published import download, opened


def load(*, path: str) -> Images:
    """The images by class and name, read later; no split of its own, since none was published.

    path: the folder `eurosat`, with the unpacked folder `2750` in it; if it is missing, a DataError.
    """
    from torchvision.datasets import EuroSAT

    [images] = opened("eurosat", EuroSAT, path, {})
    root = f"{path}/2750"
    ids = [file.removeprefix(f"{root}/") for file, _ in images.samples]
    return Images(
        pixels=_listing.files(root, ids, OneShape(shape=(64, 64), fit="crop")),
        ids=ids,
        labels=np.array(images.targets, dtype=np.int64),
        classes=images.classes,
        split=None,
    )


def fetch(path: str) -> None:
    """Download the files (90 MB) to `path`, checked against their md5."""
    from torchvision.datasets import EuroSAT

    download(EuroSAT, path, {})
