"""Files → what is kept of them, by several processes: most of the time of a small image is Pillow's own Python.

Each process reads, decodes and hashes a few files at a time. What becomes of a file depends on that file alone, and
everything comes back in the order in which it was asked for.
"""

import hashlib
import os
import signal
import struct
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from types import ModuleType
from typing import Any, NamedTuple, get_args

import numpy as np

from stages.datasets._decoding import FORMATS, Treatment, Unusable, format_of
from stages.datasets._images import DataError, Record
from stages.datasets._perceptual import phash

SHAPE = struct.Struct("<3q")
KEY = struct.Struct("<2Q")
Key = tuple[int, int]
TREATMENTS: tuple[str, ...] = get_args(Treatment)
# what is known of an image that was kept, in the ledger and while it is written
KEPT = np.dtype(
    [
        ("key", "<u8", 2),  # of its file: see Reading; 0 without a file
        ("sha256", "V32"),  # of shape and pixels
        ("md5", "V16"),  # of its file, and the bytes of that
        ("size", "<i8"),
        ("phash", "<u8"),  # 0 where nobody asked for it
        ("treatments", "<u4"),  # a bit for each of TREATMENTS
        ("format", "u1"),  # of its file: 1 is the first of FORMATS, 0 none of them
        ("shard", "<i4"),  # where its bytes lie: see _storage.Place
        ("offset", "<i8"),
        ("bytes", "<i8"),
        ("crc32", "<u4"),
        ("height", "<i4"),
        ("width", "<i4"),
    ]
)


class Kept(NamedTuple):
    """An image as it is stored: its bytes, and a line of KEPT that does not know yet which file, and where they lie."""

    content: bytes | memoryview
    line: tuple[Any, ...]


class Bad(NamedTuple):
    """A file that nothing is kept of."""

    kind: str  # a key of the table in docs/data.md
    words: str
    size: int | None  # of the file, None if it cannot be read
    md5: bytes | None


class Batch(NamedTuple):
    """What became of some files, as it comes from another process: in few objects."""

    content: bytes  # of the images that are kept, one after the other
    lines: np.ndarray  # KEPT, of each of these
    bad: dict[int, Bad]  # the others, by their place among all
    seconds: float  # that it took

    def each(self) -> Iterator[Kept | Bad]:
        """What became of each file, in order."""
        start, lines = 0, iter(self.lines)
        for place in range(len(self.lines) + len(self.bad)):
            if place in self.bad:
                yield self.bad[place]
            else:
                line = next(lines)
                end = start + int(line["bytes"])
                yield Kept(self.content[start:end], line.item())
                start = end


def batch(results: Iterable[Kept | Bad], seconds: float = 0) -> Batch:
    """What becomes of some files, put together; `seconds` have been spent on them before."""
    start = time.perf_counter() - seconds
    bad: dict[int, Bad] = {}
    good: list[Kept] = []
    for place, result in enumerate(results):
        if isinstance(result, Bad):
            bad[place] = result
        else:
            good.append(result)
    lines = np.array([image.line for image in good], KEPT)
    content = b"".join([image.content for image in good])
    return Batch(content, lines, bad, time.perf_counter() - start)


class Reading(NamedTuple):
    """How a file is read, as Files says; it can be pickled.

    near: whether the perceptual hash is wanted.
    """

    content: Callable[[Any], bytes]
    keep: Callable[[bytes], Record]
    stamp: Callable[[Any], str]
    near: bool

    def __call__(self, name: str, item: Any) -> Kept | Bad:
        """What becomes of the file `item`, whose id is `name`."""
        content = None
        key = self.key(name, item)  # first: if the file changes now, it is read again the next time
        try:
            content = self.content(item)
            return kept(self.keep(content), self.near, content, key)
        except Unusable as error:
            size, md5 = (None, None) if content is None else (len(content), _md5(content))
            return Bad(error.kind, error.words, size, md5)

    def key(self, name: str, item: Any) -> Key:
        """A hash of the id and of the stamp: as good as different wherever these are."""
        high, low = KEY.unpack(hashlib.blake2b(f"{name}\0{self.stamp(item)}".encode(), digest_size=KEY.size).digest())
        return high, low


def kept(record: Record, near: bool, file: bytes = b"", key: Key = (0, 0)) -> Kept:
    """An image, and what is measured of it; `file` are the bytes that it was read from, if it was."""
    pixels = np.ascontiguousarray(record.pixels)
    height, width, _ = pixels.shape
    raw = pixels.ravel().data
    content = raw if record.content is None else record.content
    sha256 = hashlib.sha256(SHAPE.pack(*pixels.shape))
    sha256.update(raw)
    treatments = sum(1 << TREATMENTS.index(treatment) for treatment in record.treatment)
    place = (0, 0, len(content), zlib.crc32(content), height, width)
    form = 1 + FORMATS.index(known) if (known := format_of(file)) else 0
    about = (sha256.digest(), _md5(file), len(file), phash(pixels) if near else 0, treatments, form)
    return Kept(content, (key, *about, *place))


def arriving(reading: Reading, chunks: Iterable[Sequence[tuple[str, Any]]], workers: int) -> Iterator[Batch]:
    """What becomes of the files (id and item) of each chunk, in order; `workers` processes read ahead of who asks."""
    if workers == 1:
        yield from (batch(reading(*file) for file in chunk) for chunk in chunks)
        return
    pool = _pool(reading, workers)
    ahead: deque[Future[Batch] | None] = deque()
    try:
        for chunk in chunks:
            with _without_main():
                ahead.append(pool.submit(_read, list(chunk)) if len(chunk) else None)
            if len(ahead) > 2 * workers:
                yield _result(ahead.popleft())
        yield from map(_result, ahead)
    except BrokenProcessPool:
        raise DataError("a process that reads images was killed, most likely as memory ran out: free some") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(reading: Reading, workers: int) -> ProcessPoolExecutor:
    """Processes that are forked from one that has imported what they need, and has no threads."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, "PIL.PngImagePlugin", "PIL.JpegImagePlugin"])
    return ProcessPoolExecutor(workers, context, _begin, (reading,))


@contextmanager
def _without_main() -> Iterator[None]:
    """A process that is started here does not import the command that this one runs, nor all that this imports."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _result(coming: Future[Batch] | None) -> Batch:
    return coming.result() if coming else batch(())


_reading: Reading  # of this process


def _begin(reading: Reading) -> None:
    global _reading
    _reading = reading
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the stage decides what to do about it
    threading.Thread(target=_end_with_the_stage, daemon=True).start()


def _end_with_the_stage() -> None:
    """However it ends; otherwise this process would wait for work for ever."""
    stage = parent_process()
    assert stage is not None
    stage.join()
    os._exit(1)


def _read(files: list[tuple[str, Any]]) -> Batch:
    return batch(_reading(*file) for file in files)


def _md5(content: bytes) -> bytes:
    return hashlib.md5(content, usedforsecurity=False).digest()
