"""The images of a study where they come from: which of them are asked about, and taking them away for good."""

import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline import plugins
from pipeline.errors import Refusal
from pipeline.trail.seen import Wanted

UNUSABLE = Exception  # on what is not an image decoders raise nearly anything
SHA256 = re.compile("[0-9a-f]{64}")


class Source:
    """What the source of one data set of params.yaml holds now."""

    def __init__(self, dataset: str, block: dict[str, Any]) -> None:
        self.dataset = dataset
        self.block = block["source"]
        self.path = Path(self.block["path"])

    @cached_property
    def images(self) -> Any:
        """All of its images, as `stages.datasets._images.Images`."""
        return plugins.specify("datasets", self.block, f"datasets.{self.dataset}.source").make()

    @property
    def files(self) -> bool:
        """Whether each image is a file, or lies in one, that can be taken away."""
        return hasattr(self.images.pixels, "items")

    def rows(self, wanted: Wanted, ids: Iterable[str]) -> list[int]:
        """The positions of the wanted images, and of those with `ids`, which their hashes gave."""
        named = {*ids, *(wanted.ids if wanted.dataset in (None, self.dataset) else ())}
        rows = {row for row, name in enumerate(self.images.ids) if name in named}
        if self.images.groups is not None and wanted.dataset in (None, self.dataset):
            rows |= {row for row, group in enumerate(self.images.groups) if group in wanted.groups}
        return sorted(rows)

    def content(self, row: int) -> bytes:
        """The bytes of an image's file; none of one that cannot be read."""
        try:
            return self.images.pixels.content(self.images.pixels.items[row])
        except UNUSABLE:
            return b""

    def hashes(self, content: bytes) -> set[str]:
        """The sha256 that a file with this content has as an image of this data set; none if it cannot be one."""
        if not self.files:
            return _plain(content)
        try:
            return {self.images.pixels.keep(content).sha256}
        except UNUSABLE:
            return set()

    def kept(self, content: bytes) -> list[bytes]:
        """What a data set keeps of a file with this content: pixels, and where it is one an encoded file."""
        try:
            record = self.images.pixels.keep(content)
        except UNUSABLE:
            return []
        return [record.pixels.tobytes(), *([record.content] if record.content else [])]

    def require_removable(self) -> None:
        """ParamsError if images cannot be taken out of this source."""
        plugins.remover(self.block["name"])

    def remove(self, ids: Iterable[str]) -> None:
        """Take the images away, and what the tables of the source say of them; what is gone already is passed over."""
        arguments = {name: value for name, value in self.block.items() if name != "name"}
        plugins.remover(self.block["name"])(set(ids), **arguments)


def asked(sources: Iterable[Source], images: Iterable[str], groups: Iterable[str], dataset: str | None) -> Wanted:
    """What a person named: images by path, sha256 or id, and groups."""
    ids: set[str] = set()
    hashes: set[str] = set()
    contents: list[bytes] = []
    for text in images:
        if SHA256.fullmatch(text):
            hashes.add(text)
        elif Path(text).is_file():
            content = Path(text).read_bytes()
            found = {name for source in sources for name in source.hashes(content)}
            inside = {name for source in sources for name in _inside(Path(text), source.path)}
            if not found and not inside:
                raise Refusal(f"{text} is not an image that any data set of params.yaml could hold")
            hashes |= found
            contents.append(content)
            ids |= inside
        else:
            ids.add(text)
    return Wanted(frozenset(ids), frozenset(hashes), frozenset(groups), dataset, tuple(contents))


def _inside(file: Path, folder: Path) -> list[str]:
    """The id of a file that lies in a source's folder."""
    place, root = file.absolute(), folder.absolute()
    return [place.relative_to(root).as_posix()] if root in place.parents else []


def _plain(content: bytes) -> set[str]:
    """The sha256 of an image as it is."""
    import importlib
    import io

    import numpy as np
    from PIL import Image

    record = importlib.import_module("stages.datasets._images").Record
    try:
        with Image.open(io.BytesIO(content)) as image:
            return {record(np.asarray(image.convert("RGB")), None).sha256}
    except UNUSABLE:
        return set()
