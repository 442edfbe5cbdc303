"""Many images in few files: a folder of webdataset's tar files or of parquet files, for more than 200,000 images.

data/raw/tiles/0000.tar       labels: null            000123.jpg and beside it 000123.cls or 000123.json
data/raw/tiles/0000.parquet   labels: null            a column of bytes, and the column label
                              labels: labels.csv      the label stands in that table, whatever the files say:
                                                      0000.tar/000123.jpg,heron and 0000.parquet/000123,heron
"""

import re
from functools import partial
from pathlib import Path

from pipeline.trail import removal
from stages.datasets import _cells, _labels, _listing, _pieces, _table, _tar
from stages.datasets._fitting import ShortSide, Store, fitted
from stages.datasets._images import DataError, Images

PACKED = re.compile(r"\.(tar\.[a-z0-9]+|tgz|tbz2?|txz|zip|parquet\.[a-z0-9]+)$")


def load(*, path: str, store: Store, labels: str | None, group: str | None, split: _labels.Own) -> Images:
    """Every image in the tar or parquet files below `path`, file by file in the order of names; read later, by seeking.

    The id is the file and the member's name, or the number of the row: an image keeps it when files are added.
    store: {shape, fit} keeps pixels of one shape, {short_side, quality} encoded images of many.
    labels: a CSV or parquet file in `path` with the columns file (an id) and label, or null: as the files say.
    group: the key of the .json, or the column, whose values are the groups; images of one group share a split.
    split: folders = the files lie in train, val and test; column = it stands in `split` of .json, column or table.
    """
    files = _shards(path, labels)
    part = _cells if files[0].endswith(".parquet") else _tar
    columns = _labels.columns(group, split)
    scan = part.scanned(path, files, ["label", *columns] if labels is None else [])
    if not scan.ids:
        raise DataError(f"{path} has no images: of a tar file they are members such as 000123.jpg")
    ids = _listing.ids(scan.ids)
    if labels is None:
        known = _labels.known(ids, scan.columns["label"], scan.columns, group, split, path)
    else:
        table = Path(path, _table.inside(path, labels))
        known = _labels.known(ids, *_table.joined(table, ids, columns), group, split, str(table))
    make = _cells.cells if part is _cells else _pieces.pieces
    paths = [Path(path, file) for file in files]
    pixels = make(paths, scan.places, partial(fitted, store=store), isinstance(store, ShortSide))
    return Images(pixels, ids, *known)


def remove(ids: set[str], *, path: str, labels: str | None, group: str | None, **_: object) -> None:
    """Take images away for good: members of tar files, what stands in rows of parquet files, and rows of the table."""
    if labels is not None:
        removal.rows(Path(path, labels), ids)
    for file in _shards(path, labels):
        names = {name.removeprefix(f"{file}/") for name in ids if name.startswith(f"{file}/")}
        if names and file.endswith(".parquet"):
            removal.cells(Path(path, file), map(int, names), group)
        elif names:
            removal.members(Path(path, file), names)


def _shards(path: str, labels: str | None) -> list[str]:
    """The tar files, or the parquet files, below `path`; other files are passed over."""
    table = None if labels is None else _table.inside(path, labels)
    files = [file for file in _listing.listed(path) if file != table]
    if closed := [file for file in files if file.endswith("/")]:
        raise DataError(f"{path}/{closed[0]} cannot be listed: let the user who runs the stage read it")
    kinds = {kind: [file for file in files if file.endswith(kind)] for kind in (".tar", ".parquet")}
    if all(kinds.values()):
        tar, parquet = (found[0] for found in kinds.values())
        raise DataError(f"{path} has tar and parquet files, {tar} and {parquet}: keep one kind there")
    if packed := [file for file in files if PACKED.search(file)]:
        raise DataError(f"{path}/{packed[0]} has to be unpacked first, as nobody can seek in it")
    if not any(kinds.values()):
        raise DataError(f"{path} has no .tar or .parquet files")
    return kinds[".tar"] or kinds[".parquet"]
