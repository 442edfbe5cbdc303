"""Taking images out of the files of a person: the files themselves, rows of tables. Whole or not at all, each."""

import csv
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unicodedata import normalize

from pipeline.scratch import write_atomically

LEAST = 32  # bytes that say of something that it is an image
HEADER = 2**16  # bytes that the first line of a table has at most
OBJECT = re.compile("[0-9a-f]{2}/[0-9a-f]{30}")  # where DVC's cache has a file
UNREADABLE = (ValueError, TypeError, LookupError, NotImplementedError, OSError, csv.Error)  # of damaged tables


def files(root: Path, names: Iterable[str]) -> None:
    """Remove files below `root`, what they are links to, and the folders that are empty then."""
    for name in names:
        path = root / name
        for file in (path.resolve(), path):
            file.unlink(missing_ok=True)
        with suppress(OSError):  # of a folder that is not empty
            for folder in path.relative_to(root).parents[:-1]:
                if (root / folder).exists():
                    (root / folder).rmdir()


def rows(table: Path, names: Iterable[str]) -> None:
    """Remove the rows of a CSV or parquet table whose `file` is one of `names`; the others keep their bytes."""
    gone = {normalize("NFC", name) for name in names}
    read = _csv if table.suffix.lower() == ".csv" else _parquet
    content = table.read_bytes()
    kept = read(content, gone)
    if kept != content:
        write_atomically(place(table), kept)


def members(tar: Path, names: Iterable[str]) -> None:
    """Remove images from a tar file, and all members that share their names but for the suffix."""
    tar, gone = place(tar), {_stem(name) for name in names}
    new = tar.with_name(f".{tar.name}.new")
    with tarfile.open(tar, "r:") as old, tarfile.open(new, "w:", format=tarfile.PAX_FORMAT) as kept:
        for member in old:
            if _stem(member.name.removeprefix("./")) not in gone:
                kept.addfile(member, old.extractfile(member) if member.isreg() else None)
    new.replace(tar)


def cells(parquet: Path, rows: Iterable[int], group: str | None) -> None:
    """Empty the rows of a parquet file of images, but for the split: the others keep their numbers, and so their ids.

    A group that every row needs becomes "forgotten".
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parquet, gone, first = place(parquet), set(rows), 0
    new = parquet.with_name(f".{parquet.name}.new")
    old = pq.ParquetFile(parquet)
    with pq.ParquetWriter(new, old.schema_arrow) as kept:
        for number in range(old.num_row_groups):
            table = old.read_row_group(number)
            empty = pa.array([first + row in gone for row in range(len(table))])
            columns = {name: _emptied(name, table[name], empty, group) for name in table.column_names}
            kept.write_table(pa.table(columns, schema=old.schema_arrow), row_group_size=len(table))
            first += len(table)
    new.replace(parquet)


def place(file: Path) -> Path:
    """Where a file is written anew: what a link leads to, or the link if that is DVC's object: forget removes those."""
    real = file.resolve()
    return file if OBJECT.fullmatch("/".join(real.parts[-2:])) else real


def _emptied(name: str, column: Any, empty: Any, group: str | None) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if name == "split":
        return column
    filler = pa.scalar("forgotten" if name == group else None, column.type)
    return pc.if_else(empty, filler, column)


def _stem(name: str) -> str:
    """A member's name up to the first dot behind its folders."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def holds(content: bytes, parts: Iterable[bytes], names: set[str]) -> bool:
    """Whether an object of DVC holds one of `parts`, or is a table or a list of files that says one of `names`."""
    parts = [part for part in parts if len(part) >= LEAST]
    with suppress(*UNREADABLE):
        if _says(content, parts, {normalize("NFC", name) for name in names}):
            return True
    return any(part in content for part in parts)


def _says(content: bytes, parts: list[bytes], names: set[str]) -> bool:
    """Whether a table or a list of files says one of `names`, or has one of `parts` as a value or by its md5."""
    if content.startswith(b"PAR1"):
        said = {*names, *parts}
        return any(not said.isdisjoint(column) for column in _columns(content))
    if content.startswith(b'[{"md5"'):
        listed, md5s = json.loads(content), {hashlib.md5(part).hexdigest() for part in parts}
        return any(normalize("NFC", file["relpath"]) in names or file["md5"] in md5s for file in listed)
    return not names.isdisjoint(_listed(content))


def _columns(content: bytes) -> Iterator[Iterator[Any]]:
    """The values of a parquet file's columns of text, and of bytes, which may be a field of a struct."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for column in pq.read_table(io.BytesIO(content)).flatten().columns:
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            yield (normalize("NFC", text) for text in column.to_pylist() if text)
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            yield iter(column.to_pylist())


def _listed(content: bytes) -> Iterator[str]:
    """What a CSV table says in its column `file`; of anything else nothing."""
    first = next(_records(content[:HEADER]), [])
    if "file" in first:
        at = first.index("file")
        yield from (normalize("NFC", row[at]) for row in _records(content) if len(row) > at)


def _records(content: bytes) -> Iterator[list[str]]:
    return csv.reader(io.StringIO(content.decode("utf-8-sig", errors="replace"), newline=""))


def _csv(content: bytes, gone: set[str]) -> bytes:
    lines = content.decode("utf-8-sig").splitlines(keepends=True)
    reader = csv.reader(lines)
    at = next(reader).index("file")
    kept, begin = lines[: reader.line_num], reader.line_num
    for row in reader:
        if len(row) <= at or normalize("NFC", row[at]) not in gone:
            kept += lines[begin : reader.line_num]
        begin = reader.line_num
    mark = b"\xef\xbb\xbf" if content.startswith(b"\xef\xbb\xbf") else b""
    return mark + "".join(kept).encode()


def _parquet(content: bytes, gone: set[str]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(content))
    keep = [normalize("NFC", str(name)) not in gone for name in table["file"].to_pylist()]
    if all(keep):
        return content
    stream = io.BytesIO()
    pq.write_table(table.filter(pa.array(keep)), stream)
    return stream.getvalue()
