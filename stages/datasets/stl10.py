"""STL-10: 96×96 photographs, 5 000 train and 8 000 test in 10 classes, 100 000 without a label (Coates 2011)."""

from pathlib import Path

import numpy as np

from stages.datasets._images import Images, Record
from stages.datasets._pieces import pieces
from stages.datasets._published import damaged, download, home

SIDE = 96
SIZE = 3 * SIDE * SIDE  # bytes of an image: channel by channel, column by column
PARTS = {"train": "train", "unlabeled": "train", "test": "test"}  # part → split


def load(*, path: str) -> Images:
    """Train, unlabeled and test images in the order of the files, read later; the split is the published one.

    Those without a label are train images. path: the folder `stl10_binary`; missing files are a DataError.
    """
    _check(path)
    root = Path(path)
    names = (root / "class_names.txt").read_text().split()
    files = [root / f"{part}_X.bin" for part in PARTS]
    sizes = [file.stat().st_size // SIZE for file in files]
    labels = [np.fromfile(root / f"{part}_y.bin", np.uint8).astype(np.int64) - 1 for part in ("train", "test")]
    places = [(number, row * SIZE, SIZE) for number, size in enumerate(sizes) for row in range(size)]
    return Images(
        pixels=pieces(files, np.array(places), _record, encoded=False),
        ids=[f"{part}/{row:05d}" for part, size in zip(PARTS, sizes, strict=True) for row in range(size)],
        labels=np.concatenate([labels[0], np.full(sizes[1], -1), labels[1]]),
        classes=names,
        split=np.repeat(list(PARTS.values()), sizes),
    )


def fetch(path: str) -> None:
    """Download the files (2.6 GB) to `path`, checked against their published md5."""
    from torchvision.datasets import STL10

    download(STL10, path, {})


def _check(path: str) -> None:
    """DataError unless every file has its published md5."""
    from torchvision.datasets import STL10
    from torchvision.datasets.utils import check_integrity

    home(STL10, path)
    for name, md5 in STL10.train_list + STL10.test_list:
        if not check_integrity(Path(path, name), md5):
            raise damaged("stl10", STL10, path, OSError(f"{name} is not as it was published"))


def _record(content: bytes) -> Record:
    columns = np.frombuffer(content, np.uint8).reshape(3, SIDE, SIDE)
    return Record(np.ascontiguousarray(columns.transpose(2, 1, 0)), None)
