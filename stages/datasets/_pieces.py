"""Images that are pieces of larger files: int64 (n, 3), the number of the file, the offset, the bytes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from stages.datasets._decoding import Unusable
from stages.datasets._images import Files, Record


class Scan(NamedTuple):
    """The images that were found in some files, in their order."""

    ids: list[str]
    places: np.ndarray  # int64 (n, 3), the first the number of the file
    columns: dict[str, pa.Array]  # of text, null where nothing is said


def pieces(paths: list[Path], places: np.ndarray, keep: Callable[[bytes], Record], encoded: bool) -> Files:
    """The pieces of `paths` at `places`, in that order; they are read by seeking."""
    return Files(places, partial(_content, paths=paths), keep, partial(stamp, paths=paths), encoded)


def stamp(place: np.ndarray, paths: list[Path]) -> str:
    """Of the file, and the place in it."""
    number, *inside = place.tolist()
    try:
        status = paths[number].stat()
    except OSError as error:
        return type(error).__name__
    return f"{status.st_size} {status.st_mtime_ns} {inside[0]} {inside[1]}"


def _content(place: np.ndarray, paths: list[Path]) -> bytes:
    number, offset, size = place.tolist()
    try:
        with paths[number].open("rb") as file:
            file.seek(offset)
            content = file.read(size)
    except OSError as error:
        raise Unusable("unreadable", f"{paths[number]}: {error.strerror}: copy it again") from error
    if len(content) < size:
        raise Unusable("truncated", f"{paths[number]} ends before its byte {offset + size}: copy it again")
    return content
