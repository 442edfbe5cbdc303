"""Images of a source → the folder `images` of a prepared data set, in the layout that `_storage` reads.

One image after the other, in the order of the rows: the same images are the same bytes, and memory does not grow with
their number but for the index. Threads read ahead.
"""

import zlib
from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.repro import cores
from stages.datasets._images import Files, Images, Record
from stages.datasets._storage import DataError, Place, shard_file

SHARD = 256 * 2**20  # bytes of a shard, at most: what DVC moves at once
NAMED = 10  # files that a message lists


class Pack:
    """Writes `pixels.npy`: `count` images of one shape."""

    def __init__(self, folder: Path, count: int) -> None:
        self._file = (folder / "pixels.npy").open("wb")
        self._count = count

    def add(self, record: Record) -> dict[str, int]:
        if not self._file.tell():
            shape = (self._count, *record.pixels.shape)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self._file, header)
        self._file.write(record.pixels.tobytes())
        return {}

    def close(self) -> None:
        self._file.close()


class Shards:
    """Writes `shard-00000.bin` and so on, each of at most `size` bytes or of one image."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self._shard = -1
        self._file: BinaryIO | None = None

    def add(self, record: Record) -> dict[str, int]:
        """Where the record lies now: the columns of the index."""
        content = record.content
        assert content is not None
        if self._file is None or self._file.tell() + len(content) > self._size:
            self.close()
            self._shard += 1
            self._file = shard_file(self._folder, self._shard).open("wb")
        height, width, _ = record.pixels.shape
        place = Place(self._shard, self._file.tell(), len(content), zlib.crc32(content), height, width)
        self._file.write(content)
        return place._asdict()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def write(folder: Path, images: Images, check: Callable[[], None]) -> dict[str, Any]:
    """Write all images; the columns of their index but for the id: sha256 and, of encoded ones, those of Place.

    check: called before each image, to stop. DataError if files cannot be read, after a look at all of them.
    """
    hashes: list[str] = []
    places: dict[str, array[int]] = defaultdict(lambda: array("q"))
    unreadable: dict[int, Exception] = {}
    encoded = isinstance(images.pixels, Files) and images.pixels.encoded
    with closing(Shards(folder, SHARD) if encoded else Pack(folder, len(images))) as target:
        for row, coming in enumerate(_read_ahead(images)):
            check()
            try:
                record, sha256 = coming.result()
            except Exception as error:  # on damaged files decoders raise nearly anything
                unreadable[row] = error
                continue
            hashes.append(sha256)
            for column, value in target.add(record).items():
                places[column].append(value)
    if unreadable:
        raise _refusal(images, unreadable)
    return {"sha256": hashes, **{column: np.array(values) for column, values in places.items()}}


def _read_ahead(images: Images) -> Iterator[Future[tuple[Record, str]]]:
    def read(row: int) -> tuple[Record, str]:
        record = images.record(row)
        return record, record.sha256

    with ThreadPoolExecutor(cores()) as pool:
        coming: deque[Future[tuple[Record, str]]] = deque()
        for row in range(len(images)):
            coming.append(pool.submit(read, row))
            if len(coming) > 2 * cores():
                yield coming.popleft()
        yield from coming


def _refusal(images: Images, unreadable: dict[int, Exception]) -> DataError:
    assert isinstance(images.pixels, Files)
    (first, reason), *others = unreadable.items()
    names = ", ".join(images.ids[row] for row, _ in others[:NAMED])
    more = f", nor can {len(others)} others: {names}" if others else ""
    return DataError(
        f"{images.pixels.paths[first]} cannot be read ({reason}){more}{', …' if len(others) > NAMED else ''}. "
        "Replace or remove what is named here, then run the stage again"
    )
