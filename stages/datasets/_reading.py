"""A file → an image as it is kept and what is known of it, or the reason why there is none."""

import hashlib
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, get_args

import numpy as np

from stages.datasets._decoding import FORMATS, Treatment, Unusable, format_of
from stages.datasets._images import Record
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

    @property
    def files(self) -> int:
        """How many they were."""
        return len(self.lines) + len(self.bad)

    def each(self) -> Iterator[Kept | Bad]:
        """What became of each file, in order."""
        start, lines = 0, iter(self.lines)
        for place in range(self.files):
            if place in self.bad:
                yield self.bad[place]
            else:
                line = next(lines)
                end = start + int(line["bytes"])
                yield Kept(self.content[start:end], line.item())
                start = end


def batch(results: Iterable[Kept | Bad]) -> Batch:
    """What becomes of some files, put together."""
    start = time.perf_counter()
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


def _md5(content: bytes) -> bytes:
    return hashlib.md5(content, usedforsecurity=False).digest()
