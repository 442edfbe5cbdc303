"""Your own images: a folder with one sub-folder per class, or any folder with a table of labels.

data/raw/birds/heron/a.jpg      labels: null          the label is the first folder; an image outside any has none
data/raw/birds/2024/b.jpg       labels: labels.csv    the label stands in data/raw/birds/labels.csv: file,label
                                                      2024/b.jpg,heron; an image that is not listed has none
data/raw/birds/test/heron/c.jpg split: folders        the first folder is the split: train, val or test

With a table, a label added later changes no id, so no encoder is trained again for it.
"""

from bisect import bisect_left
from pathlib import Path

from pipeline.trail import removal
from stages.datasets import _labels, _listing, _table
from stages.datasets._fitting import Store
from stages.datasets._images import DataError, Images


def load(*, path: str, store: Store, labels: str | None, group: _labels.Group, split: _labels.Own) -> Images:
    """Every file below `path`, sorted by its path, which is its id; which of them are images, reading them will show.

    store: {shape, fit} keeps pixels of one shape, {short_side, quality} encoded images of many; they are read later.
    labels: a CSV or parquet file in `path` with the columns file and label, or null: the class is the first folder.
    group: a column of that table, or the level of a folder, whose name is the group: 1 is the first. Images of one
        group share a split. null: each image stands by itself.
    split: folders = train, val and test are the first folders, and count neither as class nor as level; column = the
        column `split` of the table; null: the source has no split of its own.
    """
    columns = _labels.columns(group, split)
    if labels is None and columns:
        raise DataError(f"{path}: the column {columns[0]!r} has to stand in a table: say which by `labels`")
    table = None if labels is None else _table.inside(path, labels)
    files = [file for file in _listing.listed(path) if file != table]
    if not files:
        raise DataError(f"{path} has no files: put the images there, or a link to them")
    ids = _listing.ids(files)
    if table is None:
        level = 1 + (split == "folders")
        _refuse_empty(path, files, level)
        known = _labels.known(ids, _labels.folder_names(ids, level), {}, group, split, path)
    else:
        known = _labels.known(ids, *_table.joined(Path(path, table), ids, columns), group, split, f"{path}/{table}")
    return Images(_listing.files(path, files, store), ids, *known)


def remove(ids: set[str], *, path: str, labels: str | None, **_: object) -> None:
    """Take images away for good: their files, and their rows in the table."""
    if labels is not None:
        removal.rows(Path(path, labels), ids)
    removal.files(Path(path), ids)


def _refuse_empty(path: str, files: list[str], level: int) -> None:
    """DataError for a class folder, one at `level`, without a file: it is more likely a mistake than a class."""
    for folder in sorted(Path(path).glob("/".join(["*"] * level))):
        name = folder.relative_to(path).as_posix()
        if name.startswith(".") or folder.is_symlink() or not folder.is_dir():
            continue
        at = bisect_left(files, f"{name}/")
        if at == len(files) or not files[at].startswith(f"{name}/"):
            raise DataError(f"class {folder.name!r} has no images: {folder} holds no file")
