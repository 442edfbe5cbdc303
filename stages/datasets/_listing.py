"""The files below a folder, and how each is read: millions of them, at the size of their names.

A file is known by its path below the folder, with `/` between the parts. Hidden ones (a part starts with ".") are
passed over. A link to a file is that file; a link to a folder is followed if that has not been listed already, so a
link to a folder above it ends there. What cannot be read is listed all the same, and `Unusable` when its turn comes: a
folder that cannot be listed (its path ends with `/`), a link into the void, a pipe, a name that is not UTF-8.
"""

import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from stages.datasets import _decoding
from stages.datasets._decoding import Unusable
from stages.datasets._fitting import ShortSide, Store, fitted
from stages.datasets._images import DataError, Files


def listed(path: str) -> list[str]:
    """Every file below the folder `path`, sorted, whatever the order of the file system."""
    if not Path(path).is_dir():
        raise DataError(f"{path} is not a folder: put the images there, or a link to them")
    files = sorted(_walk(path))
    if files[:1] == [""]:
        raise DataError(f"{path} cannot be listed: let the user who runs the stage read it")
    return files


def ids(files: list[str]) -> list[str]:
    """The files as text that can be written down: the very same list where all names are UTF-8."""
    if not any(map(_odd, files)):
        return files
    return [os.fsencode(file).decode("utf-8", "backslashreplace") for file in files]


def files(path: str, items: list[str], store: Store) -> Files:
    """The listed `items` of the folder `path`, to be kept as `store` says."""
    root = Path(path)
    return Files(
        items,
        partial(_content, root=root),
        partial(fitted, store=store),
        partial(_stamp, root=root),
        isinstance(store, ShortSide),
    )


def _walk(root: str) -> Iterator[str]:
    """Real folders first, then those that links lead to and that are still unknown, links in the order of names."""
    seen: set[tuple[int, int]] = set()
    links = [""]
    while links:
        folders, links = links, []
        for folder in sorted(folders):
            yield from _tree(root, folder, seen, links)


def _tree(root: str, top: str, seen: set[tuple[int, int]], links: list[str]) -> Iterator[str]:
    """The files below `top`; folders that are links are added to `links`. A folder's path ends with "/"."""
    todo = [top]
    while todo:
        folder = todo.pop()
        try:
            place = Path(root, folder).stat()
            if (place.st_dev, place.st_ino) in seen:
                continue
            seen.add((place.st_dev, place.st_ino))
            with os.scandir(f"{root}/{folder}") as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    name = folder + entry.name
                    if _is_folder(entry):
                        (links if entry.is_symlink() else todo).append(f"{name}/")
                    else:
                        yield name
        except OSError:
            yield folder


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or into what may not be looked at
        return False


def _content(file: str, root: Path) -> bytes:
    if _odd(file):
        raise Unusable("name", "the name is not UTF-8: rename it")
    if file.endswith("/"):
        raise Unusable("unreadable", "the folder cannot be listed: let the user who runs the stage read it")
    return _decoding.content(f"{root}/{file}")


def _stamp(file: str, root: Path) -> str:
    try:
        status = os.stat(f"{root}/{file}")  # noqa: PTH116  # a Path takes longer to make than to look at
    except OSError as error:
        return type(error).__name__
    return f"{status.st_size} {status.st_mtime_ns} {stat.filemode(status.st_mode)}"


def _odd(file: str) -> bool:
    if file.isascii():
        return False
    try:
        file.encode()
    except UnicodeEncodeError:
        return True
    return False
