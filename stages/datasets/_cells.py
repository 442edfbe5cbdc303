"""Parquet files whose rows are images: one column of bytes, and what is known of each in columns of text.

The bytes stand in a binary column, or in the field `bytes` of a struct, as the Hugging Face Hub has them. They are read
a row group at a time.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.datasets._decoding import Unusable
from stages.datasets._images import DataError, Files, Record
from stages.datasets._pieces import Scan, stamp
from stages.datasets._table import DAMAGED, text

LARGEST = 2**28  # bytes of the images in a row group
KEPT = 2  # row groups that a process holds

_READING = Lock()  # threads that want the same row group wait for the first


def scanned(root: str, files: list[str], names: list[str]) -> Scan:
    """The images of the parquet `files` below `root`, and their columns `names`, null where a file lacks one.

    A place is the number of the file, that of its row group, and the row in it.
    """
    ids: list[str] = []
    places: list[np.ndarray] = []
    columns: dict[str, list[pa.Array]] = {name: [] for name in names}
    for number, file in enumerate(files):
        parquet = _opened(Path(root, file))
        ids += [f"{file}/{row:06d}" for row in range(parquet.metadata.num_rows)]
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            places.append(np.stack([np.full(rows, number), np.full(rows, group), np.arange(rows)], axis=1))
        for name, parts in columns.items():
            parts.append(_column(parquet, name, f"the column {name!r} of {Path(root, file)}"))
    return Scan(
        ids,
        np.concatenate(places or [np.empty((0, 3), np.int64)]),
        {n: pa.concat_arrays(p) for n, p in columns.items()},
    )


def cells(paths: list[Path], places: np.ndarray, keep: Callable[[bytes], Record], encoded: bool) -> Files:
    """The images of `paths` at `places`; read in their order, each row group is read once."""
    return Files(places, partial(_content, paths=paths), keep, partial(stamp, paths=paths), encoded)


def _content(place: np.ndarray, paths: list[Path]) -> bytes:
    number, group, row = place.tolist()
    with _READING:
        rows = _group(paths[number], group)
    if row >= len(rows):
        raise Unusable("unreadable", f"{paths[number]} was written anew meanwhile: run the stage again")
    cell = rows[row].as_py()
    if cell is None:
        raise Unusable("empty", "the row has no bytes: fill it in")
    return cell


@lru_cache(KEPT)
def _group(path: Path, group: int) -> pa.ChunkedArray:
    """The bytes of the images in a row group."""
    try:
        parquet = pq.ParquetFile(path)
        column = _image_column(path, parquet)
        return parquet.read_row_group(group, [column], use_threads=False).flatten().column(0)
    except (*DAMAGED, DataError) as error:
        raise Unusable("unreadable", f"row group {group} of {path} is damaged: copy it again") from error


def _opened(path: Path) -> pq.ParquetFile:
    """DataError unless it is whole, and its row groups are small enough to be read at once."""
    try:
        parquet = pq.ParquetFile(path)
    except DAMAGED as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is not a whole parquet file ({reason}): copy it again") from error
    column = _image_column(path, parquet)
    for group in map(parquet.metadata.row_group, range(parquet.num_row_groups)):
        parts = [part for part in map(group.column, range(group.num_columns)) if part.path_in_schema == column]
        size = sum(part.total_uncompressed_size for part in parts)
        if size > LARGEST:
            fit = max(1, group.num_rows * LARGEST // size)
            raise DataError(
                f"{path} has row groups of {size / 2**20:.0f} MiB of images, which are read at once: write it anew "
                f"with at most {LARGEST // 2**20} MiB in each, pyarrow.parquet.write_table(…, row_group_size={fit})"
            )
    return parquet


def _image_column(path: Path, parquet: pq.ParquetFile) -> str:
    """The one column of bytes, as parquet names it."""
    found = []
    for field in parquet.schema_arrow:
        if _is_bytes(field.type):
            found.append(field.name)
        elif pa.types.is_struct(field.type):
            inner = field.type.get_field_index("bytes")
            found += [f"{field.name}.bytes"] if inner >= 0 and _is_bytes(field.type.field(inner).type) else []
    if len(found) != 1:
        has = f"has the columns {', '.join(found)}" if found else "has none"
        raise DataError(f"{path} needs one column of bytes, those of the image files, and {has}")
    return found[0]


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _column(parquet: pq.ParquetFile, name: str, what: str) -> pa.Array:
    if name not in parquet.schema_arrow.names:
        return pa.nulls(parquet.metadata.num_rows, pa.string())
    try:
        [column] = parquet.read([name]).columns
        return text(column.combine_chunks(), what)
    except DAMAGED as error:
        raise DataError(f"{what} cannot be read: there are two of that name, or the file is damaged") from error
