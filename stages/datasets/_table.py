"""A table that lists images: a CSV or parquet file with the columns file and label, and what else is asked for."""

from pathlib import Path, PurePosixPath
from unicodedata import normalize

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from pipeline.sentences import hinted
from stages.datasets._images import DataError

SHOWN = 120  # letters of a first line that a message quotes
DAMAGED = (pa.ArrowException, OSError, ValueError)  # what reading a file that is not whole may raise


def inside(path: str, labels: str) -> str:
    """The table `labels` as it is listed among the files below `path`; DataError if it lies elsewhere."""
    place = PurePosixPath(labels)
    if place.is_absolute() or ".." in place.parts:
        raise DataError(f"labels: {labels} is not a file below {path}, which is all that is watched: put it there")
    return place.as_posix()


def joined(table: Path, ids: list[str], others: list[str]) -> tuple[pa.Array, dict[str, pa.Array]]:
    """Of each image the label and the columns `others`, as text, null where the table says nothing.

    DataError for a row that names no image, for two rows that contradict each other and, unless other columns are asked
    for, for a row without a label.
    """
    rows = _read(table, ["file", "label", *others])
    images = pa.array(ids, pa.string())
    files = _spelled(rows["file"], images)
    strangers = pc.invert(pc.is_in(files, value_set=images))
    _refuse(table, rows, strangers, f"there is no image {{file!r}} in {table.parent}; one there is {ids[0]!r}")
    if not others:
        _refuse(table, rows, pc.is_null(rows["label"]), "{file} has an empty label; leave the line out instead")
    first = pc.index_in(files, value_set=files)
    for name in ("label", *others):
        texts = pc.fill_null(rows[name], "")
        before = {"before": texts.take(first)}
        _refuse(
            table, rows | before, pc.not_equal(texts, before["before"]), f"{{file}} already has the {name} {{before!r}}"
        )
    found = pc.index_in(images, value_set=files)
    return rows["label"].take(found), {name: rows[name].take(found) for name in others}


def _read(table: Path, names: list[str]) -> dict[str, pa.Array]:
    """Name → column of text, null for the empty one."""
    if not table.is_file():
        raise DataError(f"{table} is missing: a CSV or parquet file with the columns {', '.join(names)}")
    try:
        rows = _csv(table, names) if table.suffix.lower() == ".csv" else pq.read_table(table)
    except DAMAGED as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{table} cannot be read ({reason[:SHOWN]}): save it as CSV in UTF-8, or as parquet") from error
    if absent := [name for name in names if rows.schema.names.count(name) != 1]:
        has = ",".join(rows.schema.names)[:SHOWN]
        hint = ": save it with commas" if ";" in has else hinted(absent[0], rows.schema.names)
        raise DataError(f"{table} needs one column {absent[0]!r}; it has the columns `{has}`{hint}")
    return {name: text(rows[name].combine_chunks(), f"the column {name!r} of {table}") for name in names}


def _csv(table: Path, names: list[str]) -> pa.Table:
    return arrow_csv.read_csv(
        table,
        arrow_csv.ReadOptions(use_threads=False),  # errors then say the line
        arrow_csv.ParseOptions(newlines_in_values=True),
        arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    )


def text(column: pa.Array, what: str) -> pa.Array:
    """A column as text, null for the empty one; DataError, which says `what` it is, if it is no column of values."""
    try:
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column)
        texts = column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{what} holds {column.type}: it should be text or numbers") from error
    return pc.if_else(pc.equal(texts, ""), None, texts)


def _spelled(files: pa.Array, images: pa.Array) -> pa.Array:
    """The files as the images are spelled: an é may be one character or two, and both look the same."""
    unknown = pc.invert(pc.is_in(files, value_set=images))
    if not pc.any(unknown).as_py():
        return files
    spelled = {normalize("NFC", image): image for image in images.to_pylist()}
    texts = [spelled.get(normalize("NFC", file or ""), file) for file in files.filter(unknown).to_pylist()]
    return pc.replace_with_mask(files, unknown, pa.array(texts, pa.string()))


def _refuse(table: Path, rows: dict[str, pa.Array], wrong: pa.Array, sentence: str) -> None:
    """DataError if any row is wrong: the sentence is about the first."""
    row = pc.index(wrong, True).as_py()
    if row < 0:
        return
    place = f"line {row + 2}" if table.suffix.lower() == ".csv" else f"row {row + 1}"
    values = {name: column[row].as_py() for name, column in rows.items()}
    more = f" ({pc.sum(wrong).as_py()} rows are like this)" if pc.sum(wrong).as_py() > 1 else ""
    raise DataError(f"{table}, {place}: {sentence.format(**values)}{more}")
