"""ImageNet (ILSVRC 2012): 1 281 167 train and 50 000 validation photographs in 1 000 classes (Russakovsky 2015).

data/raw/imagenet/train/n01440764/n01440764_10026.JPEG
data/raw/imagenet/val/n01440764/ILSVRC2012_val_00000293.JPEG     the validation images are the test split here

It may not be downloaded without an account at image-net.org. Its 1 000 classes are named as its folders are.
"""

from pathlib import Path

import numpy as np

from stages.datasets import _labels, _listing
from stages.datasets._fitting import Store
from stages.datasets._images import DataError, Images

SPLITS = {"train": "train", "val": "test"}


def load(*, path: str, store: Store) -> Images:
    """Every file of the folders train and val, read later, sorted by its path, which is its id.

    store: {short_side, quality} keeps encoded images of many shapes, {shape, fit} pixels of one.
    """
    missing = [name for name in SPLITS if not Path(path, name).is_dir()]
    if missing:
        raise DataError(f"{path} has no folder {missing[0]}: put {path}/train/<class>/*.JPEG and {path}/val/… there")
    files = [file for file in _listing.listed(path) if file.split("/")[0] in SPLITS]
    ids = _listing.ids(files)
    labels = _labels.folder_names(ids, 2)
    if labels.null_count:
        first = ids[labels.is_null().index(True).as_py()]
        raise DataError(f"{path}/{first} lies in no class folder: sort the images into {path}/val/<class> and so on")
    known = _labels.known(ids, labels, {}, None, None, path)
    split = np.array([SPLITS[file.split("/")[0]] for file in files])
    return Images(_listing.files(path, files, store), ids, *known._replace(split=split))
