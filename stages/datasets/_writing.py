"""Images of a source → the folder `images` of a prepared data set, in the layout that `_storage` reads.

    files ┬ known to the ledger: as they lie there        ┐
          └ new: read and decoded by several processes    ┴→ in the order of the rows, one after the other

What cannot be used is left out. The same images are the same bytes, however many processes work and whatever was there
before. Memory grows by a line of KEPT for each image.
"""

import binascii
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from stages.datasets import _ledger
from stages.datasets._arriving import KEPT, Bad, Kept, Reading, arriving, kept
from stages.datasets._images import Files, Images, Record
from stages.datasets._ledger import Ledger
from stages.datasets._storage import SHARD, Place, shard_name

CHUNK = 128  # images that a process reads in one go
PAYS = 512  # new files from which on the second that other processes need to start is worth it
HEAD = 128  # bytes before the pixels in a file of NumPy's format


@dataclass(frozen=True, eq=False)
class Written:
    """What became of the images.

    rows: those that were kept, int64 (k,), ascending; the others are in `bad`, by row.
    kept: KEPT (k,), what is known of each.
    """

    rows: np.ndarray
    kept: np.ndarray
    bad: dict[int, Bad]
    encoded: bool

    @property
    def hashes(self) -> pa.Array:
        """The sha256 of each image's shape and pixels, str (k,)."""
        return hexadecimal(self.kept["sha256"])

    @property
    def places(self) -> dict[str, np.ndarray]:
        """Where each encoded image lies: the columns of Place, int64 (k,)."""
        return {name: self.kept[name].astype(np.int64) for name in Place._fields} if self.encoded else {}


def hexadecimal(digests: np.ndarray) -> pa.Array:
    """Digests, void (n,), as text, str (n,)."""
    text = binascii.hexlify(digests.tobytes())
    ends = np.arange(len(digests) + 1, dtype=np.int32) * (2 * digests.dtype.itemsize)
    return pa.StringArray.from_buffers(len(digests), pa.py_buffer(ends), pa.py_buffer(text))


class Shards:
    """Writes images one after the other into files of at most `size` bytes, or of one image."""

    def __init__(self, folder: Path, size: int, encoded: bool) -> None:
        self._folder, self._size, self._encoded = folder, size, encoded
        self._shard = -1
        self._file: BinaryIO | None = None
        self._end = 0  # of what has been written to it
        self._shape = (0, 0)  # of packed images

    def add(self, images: Iterable[Kept]) -> np.ndarray:
        """Which file each lies in now, and from which byte on, int64 (n, 2); all are on their way to the disk."""
        places, waiting = [], list[bytes]()
        for content, line in images:
            shape = line[-2:]
            if self._file is None or self._end + len(content) > self._size:
                self._write(waiting)
                self._begin(shape)
            assert self._encoded or shape == self._shape, "packed images are of one shape"
            places.append((self._shard, self._end))
            waiting.append(content)
            self._end += len(content)
        self._write(waiting)
        return np.array(places, np.int64).reshape(-1, 2)

    def close(self) -> None:
        """Packed files learn how many images they hold: the length of their header does not depend on that."""
        if self._file is None:
            return
        if not self._encoded:
            height, width = self._shape
            count = (self._end - HEAD) // (height * width * 3)
            self._file.seek(0)
            _head(self._file, count, height, width)
        self._file.close()

    def _write(self, waiting: list[bytes]) -> None:
        if self._file is not None:
            self._file.write(b"".join(waiting))
            self._file.flush()
            waiting.clear()

    def _begin(self, shape: tuple[int, int]) -> None:
        self.close()
        self._shard += 1
        self._shape = shape
        self._file = (self._folder / shard_name(self._shard, self._encoded)).open("wb")
        if not self._encoded:
            _head(self._file, 0, *shape)
        self._end = self._file.tell()


def _head(file: BinaryIO, count: int, height: int, width: int) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, height, width, 3)}
    np.lib.format.write_array_header_1_0(file, header)


def write(
    folder: Path, images: Images, scratch: Path, *, near: bool, workers: int, check: Callable[[], None]
) -> Written:
    """Put the images into `folder`, all but those that are Unusable.

    scratch: what is there from earlier ingests and for later ones: see `_ledger`.
    near: whether the perceptual hash of each image is wanted.
    workers: processes that read files, of which none is started for a few.
    check: called every CHUNK images, to stop.
    """
    files = images.pixels if isinstance(images.pixels, Files) else None
    reading = Reading(files.content, files.keep, near) if files else None
    encoded = files is not None and files.encoded
    lines, rows, count = np.empty(len(images), KEPT), np.empty(len(images), np.int64), 0
    bad: dict[int, Bad] = {}
    with closing(Ledger(scratch, reading, encoded)) as ledger:
        known = _ledger.keys(files, images.ids) if files else np.zeros((len(images), 2), "<u8")
        found = ledger.find(known)
        with (
            closing(Shards(ledger.now, SHARD, encoded)) as shards,
            (ledger.now / "kept.bin").open("wb", buffering=0) as journal,
            _bar(len(images)) as bar,
        ):
            for chunk, results in _results(images, reading, ledger, found, near, workers):
                check()
                good = {row: image for row, image in zip(chunk, results, strict=True) if isinstance(image, Kept)}
                bad |= {row: image for row, image in zip(chunk, results, strict=True) if isinstance(image, Bad)}
                here = slice(count, count + len(good))
                count += len(good)
                rows[here] = list(good)
                lines[here] = np.array([image.line for image in good.values()], KEPT)
                lines["key"][here] = known[rows[here]]
                lines["shard"][here], lines["offset"][here] = shards.add(good.values()).T
                journal.write(lines[here].tobytes())
                ledger.written(found[chunk.start : chunk.stop])
                bar.update(len(chunk))
        ledger.finish(folder)
    return Written(rows[:count], lines[:count], bad, encoded)


def _results(
    images: Images, reading: Reading | None, ledger: Ledger, found: np.ndarray, near: bool, workers: int
) -> Iterator[tuple[range, list[Kept | Bad]]]:
    """What becomes of each image, CHUNK rows at a time."""
    files = images.pixels
    chunks = [range(row, min(row + CHUNK, len(images))) for row in range(0, len(images), CHUNK)]
    if not isinstance(files, Files):
        for chunk in chunks:
            yield chunk, [kept(Record(files[row], None), near, b"") for row in chunk]
        return
    assert reading is not None
    new = found[:, 0] < 0
    wanted = ([files.items[row] for row in chunk if new[row]] for chunk in chunks)
    several = workers if new.sum() >= PAYS else 1
    for chunk, arrived in zip(chunks, arriving(reading, wanted, several), strict=True):
        coming = iter(arrived)
        yield (
            chunk,
            [
                next(coming) if new[row] else ledger.read(found[row]) or reading(files.items[row])  # damaged: once more
                for row in chunk
            ],
        )


def _bar(count: int) -> tqdm:
    live = sys.stderr.isatty()
    return tqdm(total=count, unit="images", unit_scale=True, desc="ingest", mininterval=0.5 if live else 10, delay=2)
