"""The files below a folder, and how each is read: millions of them, at the size of their names.

A file is known by its path below the folder, with `/` between the parts. Hidden ones (a part starts with ".") are
passed over. A link to a file is that file; a link to a folder is passed over if that is listed by its own name, and
refused if it lies elsewhere, where DVC does not look. What cannot be read is listed all the same, and `Unusable` when
its turn comes: a folder that cannot be listed (its path ends with `/`), a link into the void, a pipe, a name that is
not UTF-8.
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
    """Every file below the folder `path`, sorted, whatever the order of the file system. DataError: see above."""
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
    """The files below `root` in any order; a folder that cannot be listed is itself, with "/" at its end."""
    todo = [""]
    while todo:
        folder = todo.pop()
        try:
            with os.scandir(f"{root}/{folder}") as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    name = folder + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(f"{name}/")
                    elif not entry.is_symlink() or not _is_folder(entry):
                        yield name
                    else:
                        _require_listed(root, name)
        except OSError:
            yield folder


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or into what may not be looked at
        return False


def _require_listed(root: str, link: str) -> None:
    """DataError unless a link to a folder leads to one that is listed by its own name."""
    target, top = Path(root, link).resolve(), Path(root).resolve()
    inside = target.relative_to(top).parts if target.is_relative_to(top) else (".",)
    if any(part.startswith(".") for part in inside):
        raise DataError(
            f"{root}/{link} is a link to a folder elsewhere, and DVC does not look behind it, so a change there would "
            f"go unseen: put the files below {root}, or let {root} itself be a link to a folder that holds everything"
        )


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
