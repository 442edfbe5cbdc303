"""DVC's objects by their md5, in the cache and in the remotes: read, found and removed. With `graph`, what imports DVC.

An object is a file's bytes under their md5, or, under one that ends in ".dir", the list of the files of a folder.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from pipeline import lock, tracking
from pipeline.errors import Refusal
from pipeline.repro import alive


class StoreError(Refusal):
    """A remote cannot be reached."""


class Store:
    """The cache and every remote of a repository; a remote that fails is left out, `failed` says why."""

    def __init__(self, repo: Any) -> None:
        self._repo = repo
        self.root = Path(repo.root_dir)
        self._places = {"cache": repo.cache.local}
        self._runs = {"cache": repo.cache.legacy}
        self.failed: dict[str, str] = {}  # remote → what it said
        for name in repo.config["remote"]:
            with self._noting(name):
                self._runs[name] = repo.cloud.get_remote_odb(name, hash_name="md5-dos2unix")
                self._places[name] = repo.cloud.get_remote_odb(name)

    @property
    def places(self) -> list[str]:
        """The cache, and the remotes by name."""
        return list(self._places)

    def read(self, oid: str) -> bytes | None:
        """The bytes of an object from the first place that has it; None if none has."""
        for place, odb in list(self._places.items()):
            with self._noting(place):
                try:
                    return odb.fs.cat_file(odb.oid_to_path(oid))
                except FileNotFoundError:
                    continue
        return None

    def files(self, oid: str) -> dict[str, str] | None:
        """Relative path → md5 of the files of a folder, of a file {"": its md5}; None if the list is nowhere."""
        if not oid.endswith(".dir"):
            return {"": oid}
        content = self.read(oid)
        return None if content is None else {file["relpath"]: file["md5"] for file in json.loads(content)}

    def having(self, oids: Iterable[str], place: str) -> set[str]:
        """Those of `oids` that a place holds; none where it fails."""
        with self._noting(place):
            return set(self._places[place].list_oids_exists(sorted(oids)))
        return set()

    def stored(self) -> Iterator[str]:
        """Every object of the cache."""
        yield from self._places["cache"].all()

    def remove(self, oids: Iterable[str], place: str) -> int:
        """Remove objects from a place; how many were there. StoreError if it cannot be done."""
        from dvc_data.hashfile.db import get_index

        odb = self._places[place]
        found = self.having(oids, place)
        with self._noting(place):
            for oid in sorted(found):
                odb.delete(oid)
            get_index(odb).clear()  # what DVC remembers of a remote, so as not to ask
        self.require(place)
        return len(found)

    def runs(self, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(file, entry) of each execution that the run-cache of a place remembers."""
        from ruamel.yaml import YAML

        odb = self._runs[place]
        with self._noting(place):
            folder = odb.fs.join(odb.path, "runs")
            for file in odb.fs.find(folder) if odb.fs.exists(folder) else []:
                yield file, YAML(typ="safe").load(odb.fs.cat_file(file))

    def remove_runs(self, oids: Iterable[str], place: str) -> None:
        """Let the run-cache of a place forget executions that made one of the objects; StoreError if it cannot."""
        gone = set(oids)
        for file, entry in list(self.runs(place)):
            if not gone.isdisjoint(lock.hashes(entry.get("outs", [])).values()):
                with self._noting(place):
                    self._runs[place].fs.remove(file)
        self.require(place)

    def require(self, *places: str) -> None:
        """StoreError if one of the places has failed."""
        for place in places:
            if place in self.failed:
                raise StoreError(f"the remote {place!r} cannot be used: {self.failed[place]}")

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """No other DVC command runs here meanwhile; StoreError if a stage is running now."""
        from dvc.lock import LockError

        busy = Path(self._repo.tmp_dir, "rwlock")
        try:
            with self._repo.lock:
                held = json.loads(busy.read_text() or "{}") if busy.exists() else {}
                if any(alive(who["pid"]) for kinds in held.values() for who in _holders(kinds)):
                    raise StoreError("a stage is running here: wait until it is done, or stop it")
                yield
        except LockError as error:
            raise StoreError("another DVC command is running here: wait until it is done") from error

    @contextmanager
    def _noting(self, place: str) -> Iterator[None]:
        """What a remote's library raises, which may be anything, takes the remote out; of the cache it is an error."""
        try:
            yield
        except Exception as error:
            if place == "cache":
                raise
            self.failed[place] = tracking.first_line(error)
            self._places.pop(place, None)
            self._runs.pop(place, None)


@contextmanager
def opened(root: Path) -> Iterator[Store]:
    """The objects of the repository at `root`."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with chdir(root), Repo() as repo:
            yield Store(repo)
    except DvcException as error:
        raise StoreError(" ".join(str(error).split())) from error


def _holders(kinds: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a path in DVC's list of those at work: who reads it, and who writes it."""
    return [*kinds.get("read", []), *([kinds["write"]] if kinds.get("write") else [])]
