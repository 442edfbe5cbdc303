"""How the images of a data set lie on the disk, and are read: in any order, from any thread, never all at once.

    images/index.parquet     id and sha256 (of shape and pixels) of each image, in the order of the rows
    images/pixels.npy        packed: images of one shape, uint8 (n, h, w, 3); beyond SHARD bytes pixels-00000.npy …,
                             of equally many images but for the last
    images/shard-00000.bin … encoded: JPEG and PNG files one after the other; index.parquet has, besides, where each
                             lies (shard, offset, bytes), its crc32, and its height and width

Files are of SHARD bytes at most, or of one image, and mapped into memory: the operating system keeps what is read
often, and takes the room back when it needs it.
"""

import mmap
import zlib
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from pipeline.errors import Refusal

SHARD = 256 * 2**20  # bytes of a file, at most: what DVC moves at once
SINGLE = "pixels.npy"
Extents = np.ndarray | None  # int64 (m, 2): height and width of each image; None: it fills its canvas


class DataError(Refusal):
    """The images or their labels cannot be used as they are."""


class Packed:
    """Images of one shape: uint8 (m, h, w, 3) in parts, equally many in all but the last; as a rule mapped files."""

    def __init__(self, *parts: np.ndarray) -> None:
        self.parts = parts
        self.canvas: tuple[int, int] = parts[0].shape[1:3]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def bytes(self) -> int:
        """Of all pixels."""
        return sum(part.nbytes for part in self.parts)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, Extents]:
        """A copy of the images at `rows`, uint8 (m, h, w, 3), in that order."""
        if len(self.parts) == 1:
            return np.take(self.parts[0], rows, axis=0), None
        canvases = np.empty((len(rows), *self.canvas, 3), dtype=np.uint8)
        return canvases, self.fill(rows, canvases)

    def fill(self, rows: np.ndarray, canvases: np.ndarray) -> Extents:
        """As `read`, into uint8 (m, h, w, 3)."""
        if len(self.parts) == 1:
            np.take(self.parts[0], rows, axis=0, out=canvases)
            return None
        numbers, places = np.divmod(rows, len(self.parts[0]))
        for number in np.unique(numbers):
            here = np.flatnonzero(numbers == number)
            canvases[here] = self.parts[number][places[here]]
        return None

    def image(self, row: int) -> np.ndarray:
        """One image, uint8 (h, w, 3)."""
        number, place = divmod(row, len(self.parts[0]))
        return np.array(self.parts[number][place])

    def file(self, row: int) -> str:
        """The name of the file that holds an image."""
        return SINGLE if len(self.parts) == 1 else shard_name(row // len(self.parts[0]), encoded=False)


class Place(NamedTuple):
    """Where an encoded image lies, and what it must decode to."""

    shard: int
    offset: int
    bytes: int
    crc32: int
    height: int
    width: int


class Encoded:
    """Images of many sizes in shards, decoded onto a canvas that holds the highest and the widest of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        table = pq.read_table(folder / "index.parquet", columns=list(Place._fields))
        self._places = np.stack([table[name].to_numpy() for name in Place._fields], axis=1)
        self.canvas: tuple[int, int] = tuple(self._places[:, 4:].max(axis=0).tolist())
        self._shards = [_mapped(shard_file(folder, shard)) for shard in range(int(self._places[-1, 0]) + 1)]

    def __len__(self) -> int:
        return len(self._places)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, Extents]:
        """The images at `rows`, uint8 (m, h, w, 3), each in the upper left corner of a black canvas.

        DataError for a damaged one.
        """
        canvases = np.empty((len(rows), *self.canvas, 3), dtype=np.uint8)
        return canvases, self.fill(rows, canvases)

    def fill(self, rows: np.ndarray, canvases: np.ndarray) -> Extents:
        """As `read`, into uint8 (m, h, w, 3)."""
        places = [Place(*place) for place in self._places[rows].tolist()]
        for place in places:
            self._expect(place)
        for canvas, place, row in zip(canvases, places, rows, strict=True):
            canvas[: place.height, : place.width] = self._decoded(place, int(row))
            canvas[place.height :] = 0
            canvas[: place.height, place.width :] = 0
        return self._places[rows, 4:]

    def image(self, row: int) -> np.ndarray:
        """One image, uint8 (h, w, 3); DataError if it is damaged."""
        return self._decoded(Place(*self._places[row].tolist()), row)

    def file(self, row: int) -> str:
        """The name of the file that holds an image."""
        return shard_name(int(self._places[row, 0]), encoded=True)

    def _expect(self, place: Place) -> None:
        """Let the disk fetch an image while others are decoded."""
        start = place.offset - place.offset % mmap.PAGESIZE
        shard = self._shards[place.shard]
        if start < len(shard):
            shard.madvise(mmap.MADV_WILLNEED, start, min(place.offset + place.bytes, len(shard)) - start)

    def _decoded(self, place: Place, row: int) -> np.ndarray:
        content = memoryview(self._shards[place.shard])[place.offset : place.offset + place.bytes]
        # the checksum also brings the pages in without the lock of the interpreter, which a fault would hold
        if zlib.crc32(content) != place.crc32:
            ids = pq.ParquetFile(self.folder / "index.parquet").read(["id"], use_threads=False)["id"]
            raise DataError(
                f"{ids[row].as_py()} (image {row}) is damaged in {shard_file(self.folder, place.shard)}, "
                f"{place.bytes} bytes from {place.offset}: remove that folder and run `dvc checkout`, or prepare again"
            )
        return decode(content)


Stored = Packed | Encoded


def shard_file(folder: Path, shard: int) -> Path:
    """The file of a shard."""
    return folder / shard_name(shard, encoded=True)


def shard_name(shard: int, encoded: bool) -> str:
    """The name of a file of images; SINGLE if it is the only one of packed ones."""
    return f"shard-{shard:05d}.bin" if encoded else f"pixels-{shard:05d}.npy"


def decode(content: bytes | memoryview) -> np.ndarray:
    """uint8 (h, w, 3) of an RGB image, JPEG or PNG."""
    from PIL import Image

    with Image.open(BytesIO(content), formats=("JPEG", "PNG")) as image:
        return np.asarray(image)


def stored(folder: Path) -> Stored:
    """What lies in the folder `images` of a prepared data set."""
    single = folder / SINGLE
    parts = [single] if single.exists() else sorted(folder.glob("pixels-*.npy"))
    return Packed(*(np.load(part, mmap_mode="r") for part in parts)) if parts else Encoded(folder)


def _mapped(file: Path) -> mmap.mmap:
    with file.open("rb") as stream:
        shard = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    shard.madvise(mmap.MADV_RANDOM)
    return shard
