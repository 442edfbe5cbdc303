"""Images of a source → the folder `images` of a prepared data set, in the layout that `_storage` reads.

    files ┬ known to the ledger: as they lie there        ┐
          └ new: read and decoded by several processes    ┴→ in the order of the rows, one after the other

What cannot be used is left out. The same images are the same bytes, however many processes work and whatever was there
before. Memory grows by a line of KEPT for each image.
"""

import binascii
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from stages.datasets._arriving import arriving
from stages.datasets._images import Files, Images, Record
from stages.datasets._ledger import Ledger
from stages.datasets._reading import KEPT, Bad, Batch, Reading, batch, kept
from stages.datasets._storage import SHARD, Place, shard_name

PIECE = 256  # images that are taken over, or put out of an array, in one go
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

    def add(self, images: Batch) -> np.ndarray:
        """Which file each lies in now, and from which byte on, int64 (n, 2); all are on their way to the disk."""
        places = np.empty((len(images.lines), 2), np.int64)
        starts = np.concatenate([[0], np.cumsum(images.lines["bytes"])])
        shapes = np.stack([images.lines["height"], images.lines["width"]], axis=1)
        first = 0
        while first < len(places):
            file = self._file
            if file is None or self._end + starts[first + 1] - starts[first] > self._size:
                file = self._begin(shapes[first])
            fit = np.searchsorted(starts, starts[first] + self._size - self._end, side="right") - 1
            last = max(first + 1, int(fit))  # an image that is larger than a file has one of its own
            assert self._encoded or (shapes[first:last] == self._shape).all(), "packed images are of one shape"
            places[first:last, 0] = self._shard
            places[first:last, 1] = self._end + starts[first:last] - starts[first]
            file.write(images.content[starts[first] : starts[last]])
            file.flush()
            self._end += int(starts[last] - starts[first])
            first = last
        return places

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

    def _begin(self, shape: np.ndarray) -> BinaryIO:
        self.close()
        self._shard += 1
        self._shape = tuple(shape.tolist())
        self._file = (self._folder / shard_name(self._shard, self._encoded)).open("wb")
        if not self._encoded:
            _head(self._file, 0, *self._shape)
        self._end = self._file.tell()
        return self._file


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
    check: called every moment, to stop.
    """
    files = images.pixels if isinstance(images.pixels, Files) else None
    reading = Reading(files.content, files.keep, files.stamp, near) if files else None
    encoded = files is not None and files.encoded
    lines, rows, count = np.empty(len(images), KEPT), np.empty(len(images), np.int64), 0
    bad: dict[int, Bad] = {}
    with closing(Ledger(scratch, reading, encoded)) as ledger:
        found = ledger.find(images)
        with (
            closing(Shards(ledger.now, SHARD, encoded)) as shards,
            (ledger.now / "kept.bin").open("wb") as journal,
            _bar(len(images)) as bar,
        ):
            for some, arrived in _arrived(images, reading, ledger, found, near, workers):
                check()
                bad |= {some[place]: image for place, image in arrived.bad.items()}
                here = slice(count, count + len(arrived.lines))
                count = here.stop
                rows[here] = np.delete(some, list(arrived.bad))
                lines[here] = arrived.lines
                lines["shard"][here], lines["offset"][here] = shards.add(arrived).T
                journal.write(lines[here].tobytes())
                journal.flush()
                ledger.written(found[some.start : some.stop])
                bar.update(len(some))
        ledger.finish(folder)
    return Written(rows[:count], lines[:count], bad, encoded)


def _arrived(
    images: Images, reading: Reading | None, ledger: Ledger, found: np.ndarray, near: bool, workers: int
) -> Iterator[tuple[range, Batch]]:
    """What becomes of each image, some rows at a time."""
    files = images.pixels
    if not isinstance(files, Files):
        for rows in _pieces(0, len(images)):
            yield rows, batch(kept(Record(files[row], None), near) for row in rows)
        return
    assert reading is not None
    new = np.flatnonzero(found[:, 0] < 0)
    wanted = ((images.ids[row], files.items[row]) for row in map(int, new))
    start = done = 0
    for arrived in chain(arriving(reading, wanted, workers if len(new) >= PAYS else 1), [batch(())]):
        done += arrived.files
        end = int(new[done - 1]) + 1 if arrived.files else len(images)
        if end - start == arrived.files > 0:
            yield range(start, end), arrived
        else:
            coming = arrived.each()
            for rows in _pieces(start, end):
                whole = (
                    next(coming)
                    if found[row, 0] < 0
                    else ledger.read(found[row]) or reading(images.ids[row], files.items[row])  # damaged: once more
                    for row in rows
                )
                yield rows, batch(whole)
        start = end


def _pieces(start: int, end: int) -> list[range]:
    return [range(row, min(row + PIECE, end)) for row in range(start, end, PIECE)]


def _bar(count: int) -> tqdm:
    live = sys.stderr.isatty()
    return tqdm(total=count, unit="images", unit_scale=True, desc="ingest", mininterval=0.5 if live else 10, delay=2)
