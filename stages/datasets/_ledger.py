"""What earlier ingests of a data set left, so that only what is new is decoded.

    .scratch/ingest/<dataset>/last/     the images of the last one that was finished
                              torn-0/   those that were written when it was killed
                              now/      those that are being written; what has been taken over into it goes there

    each with  made.json   what the images depend on besides their files: how these are read, code, Pillow
               kept.bin    a line (KEPT) of each image, written after the image itself
               and the files of images/, of which those in `last` are links to what `prepare` put out

An image is known by its key (see Reading), a hash of its id and of what `Files.stamp` says. Its bytes are taken over
only if their checksum is right. Nothing here is ever changed: DVC's cache may hold the same files.
"""

import hashlib
import json
import os
import shutil
import sys
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.scratch import link_or_copy
from stages.datasets._images import Files, Images
from stages.datasets._reading import KEPT, Kept, Reading
from stages.datasets._storage import SINGLE, shard_name

# code that says what becomes of a file
READS = ("_decoding", "_fitting", "_images", "_perceptual", "_png", "_reading", "_storage", "_writing")


class Past:
    """The images that an earlier ingest left."""

    def __init__(self, folder: Path, encoded: bool) -> None:
        self.folder, self.encoded = folder, encoded
        lines = folder / "kept.bin"
        count = lines.stat().st_size // KEPT.itemsize if lines.exists() else 0  # a kill may cut the last line
        self._lines = np.memmap(lines, KEPT, "r", shape=(count,)) if count else np.empty(0, KEPT)
        self._open_files: dict[int, int] = {}
        self._shard = np.array(self._lines["shard"])
        self._files = int(self._shard.max(initial=-1)) + 1
        there = np.array([self._path(shard).exists() for shard in range(self._files)], dtype=bool)
        places = np.flatnonzero(there[self._shard])
        first = self._lines["key"][places, 0]
        order = np.argsort(first, kind="stable")
        self._places, self._first = places[order], first[order]

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The place of each image among those here, int64 (n,), -1 where it is not."""
        if not len(self._places):
            return np.full(len(keys), -1)
        at = np.minimum(np.searchsorted(self._first, keys[:, 0]), len(self._places) - 1)
        places = self._places[at]
        same = self._first[at] == keys[:, 0]
        same[same] = self._lines["key"][places[same], 1] == keys[same, 1]
        return np.where(same, places, -1)

    def read(self, place: int) -> Kept | None:
        """An image; None if it is damaged."""
        line = self._lines[place]
        content = os.pread(self._open(int(line["shard"])), int(line["bytes"]), int(line["offset"]))
        whole = len(content) == line["bytes"] and zlib.crc32(content) == line["crc32"]
        return Kept(content, line.item()) if whole else None

    def shards(self, places: np.ndarray) -> np.ndarray:
        """How many of the images at `places` each file holds."""
        return np.bincount(self._shard[places], minlength=self._files)

    def drop(self, shards: np.ndarray) -> None:
        """Remove files, bool (files,): all that is wanted of them lies in `now`."""
        for shard in np.flatnonzero(shards):
            self._path(int(shard)).unlink(missing_ok=True)

    def close(self) -> None:
        for file in self._open_files.values():
            os.close(file)
        self._open_files.clear()

    def _open(self, shard: int) -> int:
        if shard not in self._open_files:
            self._open_files[shard] = os.open(self._path(shard), os.O_RDONLY)
        return self._open_files[shard]

    def _path(self, shard: int) -> Path:
        single = self.folder / SINGLE
        return single if single.exists() else self.folder / shard_name(shard, self.encoded)


class Ledger:
    """The ingest of one data set: what is there from before, and the folder `now` for what is written.

    reading, encoded: how files are read, of which everything depends; what was made otherwise is removed. Without
    `reading` nothing is taken over.
    """

    def __init__(self, folder: Path, reading: Reading | None, encoded: bool) -> None:
        self.folder, self.now, self.encoded = folder, folder / "now", encoded
        self.keep = reading is not None
        self._reading = reading
        self._sweep(made := _made(reading) if reading else "")
        before = [*sorted(folder.glob("torn-*")), *folder.glob("last")]
        self._pasts = [Past(each, encoded) for each in before]
        self._left: list[np.ndarray] = []
        self.now.mkdir(parents=True)
        (self.now / "made.json").write_text(made)

    def find(self, images: Images) -> np.ndarray:
        """Where each image lies, int64 (n, 2): among which earlier ones, and its place there; -1 where it is new."""
        found = np.full((len(images), 2), -1)
        if not (self._pasts and self._reading and isinstance(images.pixels, Files)):
            return found
        files = map(self._reading.key, images.ids, images.pixels.items)
        keys = np.fromiter(files, np.dtype(("<u8", 2)), len(images))
        for number, past in enumerate(self._pasts):
            new = np.flatnonzero(found[:, 0] < 0)
            places = past.find(keys[new])
            known = places >= 0
            found[new[known]] = np.stack([np.full(known.sum(), number), places[known]], axis=1)
        self._left = [past.shards(found[found[:, 0] == number, 1]) for number, past in enumerate(self._pasts)]
        for past, left in zip(self._pasts, self._left, strict=True):
            past.drop(left == 0)
        return found

    def read(self, found: np.ndarray) -> Kept | None:
        """An image that `find` found; None if it is damaged."""
        return self._pasts[found[0]].read(int(found[1]))

    def written(self, found: np.ndarray) -> None:
        """These images, (m, 2) of `find`, lie in `now`: what is no longer needed goes."""
        for number, past in enumerate(self._pasts):
            read = past.shards(found[found[:, 0] == number, 1])
            self._left[number] -= read
            past.drop((read > 0) & (self._left[number] == 0))

    def finish(self, out: Path) -> None:
        """Put the files of `now` into the folder `out`, as links where that can be, and keep them for the next time."""
        packed = sorted(self.now.glob("pixels-*.npy"))
        if len(packed) == 1:
            packed = [packed[0].rename(self.now / SINGLE)]
        for file in (*packed, *self.now.glob("shard-*.bin")):
            link_or_copy(file, out / file.name)
        self.close()
        for past in self._pasts:
            shutil.rmtree(past.folder)
        if self.keep:
            self.now.rename(self.folder / "last")
        else:
            shutil.rmtree(self.now)

    def close(self) -> None:
        for past in self._pasts:
            past.close()

    def _sweep(self, made: str) -> None:
        """Remove what was made otherwise; what was written when an ingest was killed is torn now."""
        for folder in self.folder.glob("*/"):
            note = folder / "made.json"
            if not made or not note.exists() or note.read_text() != made:
                shutil.rmtree(folder)
        if self.now.exists():
            numbers = [int(torn.name.removeprefix("torn-")) for torn in self.folder.glob("torn-*")]
            self.now.rename(self.folder / f"torn-{max(numbers, default=-1) + 1}")


def _made(reading: Reading) -> str:
    """What the images depend on besides their files."""
    import PIL

    folder = Path(__file__).parent
    modules = {_function(reading.content).__module__, _function(reading.keep).__module__}
    code = {name: folder / f"{name}.py" for name in READS} | {
        name: Path(sys.modules[name].__file__ or "") for name in modules
    }
    about = {
        # where the files lie does not count
        "reading": [_called(_function(reading.content)), _called(reading.keep), reading.near],
        "code": {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in code.items()},
        "pillow": PIL.__version__,
    }
    return json.dumps(about, indent=1, sort_keys=True) + "\n"


def _called(function: Any) -> str:
    """A function and what is bound to it, in words that stay the same."""
    inner = _function(function)
    bound = [function.args, sorted(function.keywords.items())] if isinstance(function, partial) else []
    return f"{inner.__module__}.{inner.__qualname__} {bound}"


def _function(function: Any) -> Any:
    return function.func if isinstance(function, partial) else function
