"""Tar files in the layout of webdataset: images, and beside each, under the same name but for the suffix, what it is.

    000123.jpg   an image: its suffix is one of IMAGES
    000123.cls   its label, a text
    000123.json  its label, group, split: {"label": "heron", "patient_id": "p7"}

Other members are passed over, 000123.seg.png among them: a name ends at its first dot. Where no 000123.jpg stands
beside such a one it is refused, as nobody would miss it. One pass over the headers finds where each image lies.
"""

import json
import tarfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from sys import intern
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from stages.datasets._images import DataError
from stages.datasets._pieces import Scan

IMAGES = {"bmp", "gif", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp"}
BLOCK = 512  # bytes: a header, and what the bytes of a member are filled up to
CHUNK = 2**20  # bytes


class Member(NamedTuple):
    """A file in a tar: its name, where its bytes start, how many they are."""

    name: str
    offset: int
    size: int

    @property
    def end(self) -> int:
        """Where the next header starts."""
        return self.offset + -(-self.size // BLOCK) * BLOCK


def scanned(root: str, files: list[str], names: list[str]) -> Scan:
    """The images of the tar `files` below `root`, and their columns `names`; DataError for what is damaged."""
    scan = _Scan(names)
    for number, file in enumerate(files):
        scan.add(number, file, Path(root, file))
    columns = {name: pa.array(texts, pa.string()) for name, texts in scan.texts.items()}
    return Scan(scan.ids, np.array(scan.places, dtype=np.int64).reshape(-1, 3), columns)


class _Scan:
    """What has been found so far; labels are told to images as soon as all members of a name have passed."""

    def __init__(self, names: list[str]) -> None:
        self.ids: list[str] = []
        self.places = array("q")
        self.texts: dict[str, list[str | None]] = {name: [] for name in names}

    def add(self, number: int, file: str, path: Path) -> None:
        """One tar, which is `file` in the ids."""
        first, current, odd = len(self.ids), "", ""
        waiting: dict[str, dict[str, str]] = {}  # name without suffix → what is said of images that are not here yet
        rows: list[int] = []  # of the images with the name `current`
        for member in members(path):
            name, suffix = _parted(member.name)
            if name != current:
                self._close(rows, waiting.pop(current, None) if rows else None, odd, path)
                current, rows, odd = name, [], ""
            if suffix in IMAGES:
                rows.append(len(self.ids))
                self._append(f"{file}/{member.name}", (number, member.offset, member.size))
            elif suffix in ("cls", "json") and self.texts:
                _add(waiting.setdefault(name, {}), self._said(path, member, suffix), path, name)
            elif suffix.rpartition(".")[2] in IMAGES and name.rpartition("/")[2]:  # not hidden
                odd = member.name
        self._close(rows, waiting.pop(current, None) if rows else None, odd, path)
        self._tell_late(first, file, waiting, path)

    def _append(self, name: str, place: tuple[int, int, int]) -> None:
        self.ids.append(name)
        self.places.extend(place)
        for texts in self.texts.values():
            texts.append(None)

    def _close(self, rows: list[int], said: dict[str, str] | None, odd: str, path: Path) -> None:
        """All members of a name have passed: `said` is of its images, `odd` one that is passed over."""
        if odd and not rows:
            raise DataError(
                f"{odd} in {path} would be passed over: a name ends at its first dot, and no image beside it has that "
                "name and no other dot: rename it"
            )
        self._tell(rows, said)

    def _tell(self, rows: list[int], said: dict[str, str] | None) -> None:
        for column, text in (said or {}).items():
            for row in rows:
                self.texts[column][row] = text

    def _tell_late(self, first: int, file: str, waiting: dict[str, dict[str, str]], path: Path) -> None:
        """Labels that came after images of other names, as in a tar that was not made for this."""
        late: set[str] = set()
        for row in range(first, len(self.ids)) if waiting else ():
            name, _ = _parted(self.ids[row].removeprefix(f"{file}/"))
            if name in waiting:
                self._tell([row], waiting[name])
                late.add(name)
        if orphans := waiting.keys() - late:
            some = min(orphans)
            raise DataError(f"{path} says what {some} is and has no image of that name ({' '.join(sorted(IMAGES))})")

    def _said(self, path: Path, member: Member, suffix: str) -> dict[str, str]:
        """Column → text, of those that are asked for."""
        with path.open("rb") as file:
            file.seek(member.offset)
            content = file.read(member.size)
        try:
            said = {"label": content.decode().strip()} if suffix == "cls" else json.loads(content)
            pairs = ((name, said[name]) for name in self.texts if said.get(name) is not None)
            texts = {name: str(value) for name, value in pairs if value not in ("", None) and value == value}  # no NaN
            return {name: intern(text.encode().decode()) for name, text in texts.items()}
        except (ValueError, AttributeError, RecursionError) as error:
            kind = "text" if suffix == "cls" else "mapping"
            raise DataError(f"{member.name} in {path} is no {kind} ({error}): write it anew") from None


def _add(known: dict[str, str], said: dict[str, str], path: Path, name: str) -> None:
    for column, text in said.items():
        if known.setdefault(column, text) != text:
            raise DataError(f"{name} in {path} has two values of {column}, {known[column]!r} and {text!r}: keep one")


def _parted(name: str) -> tuple[str, str]:
    """A member's name up to the first dot behind its folders, and the suffix, which may have more dots."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def members(path: Path) -> Iterator[Member]:
    """The files of a tar; DataError unless it is whole up to the mark at its end."""
    last, end = "", 0
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as tar:
            while (header := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # otherwise it keeps all of them
                member = Member(header.name.removeprefix("./"), header.offset_data, header.size)
                _refuse_odd(header, path)
                if header.isreg() and not member.offset <= member.end <= size:
                    break
                last, end = member.name, member.end if header.isreg() else member.offset
                if header.isreg():
                    yield member
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): copy it again") from error
    except (tarfile.TarError, OverflowError, ValueError) as error:  # the last two of sizes that are none
        if not end:
            raise DataError(f"{path} is not an uncompressed tar file ({error}): unpack or replace it") from error
    _refuse_cut(path, last, end, size)


def _refuse_odd(header: tarfile.TarInfo, path: Path) -> None:
    """DataError for an image whose bytes do not stand one after the other behind its header."""
    if (header.islnk() or header.issym()) and _parted(header.name)[1] in IMAGES:
        raise DataError(f"{header.name} in {path} is a link: pack the files with `tar --hard-dereference -h`")
    if header.issparse():
        raise DataError(f"{header.name} in {path} is packed with holes: pack it without --sparse (-S)")


def _refuse_cut(path: Path, last: str, end: int, size: int) -> None:
    """DataError unless nothing but zeros, a block at least, follows the last member."""
    with path.open("rb") as file:
        file.seek(end)
        mark = file.read(BLOCK)
        if len(mark) == BLOCK and not any(mark):
            while rest := file.read(CHUNK):
                if rest.count(0) < len(rest):
                    raise DataError(
                        f"{path} goes on behind its end, byte {end}: it was joined from several; keep these apart, or "
                        "unpack it with `tar --ignore-zeros` and pack it anew"
                    )
            return
    if not end:
        raise DataError(f"{path} is cut off in its first member: copy it again")
    raise DataError(
        f"{path} is cut off or damaged: its last whole member, {last}, ends at byte {end} of {size}. Copy it again, or "
        f"keep what is whole: `truncate --size {end} {path} && truncate --size +1K {path}`"
    )
