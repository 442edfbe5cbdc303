"""Where a stage keeps what must survive a kill, and the lock on the device it trains on.

    .scratch/<stage>/<id>/identity.json   what the id stands for
                          state/          checkpoints, finished cells
                          outs/           outputs under their final names, until dvc.lock has recorded them
                          finished        outs/ is complete
                          placed          data/ has it too
    .scratch/swept/                       one that is being removed

DVC deletes outputs before it runs a stage, so nothing that a resume needs may live in data/.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline import lock, paths

LOCKS = "/tmp/contrail-{}"  # of a user; not from TMPDIR or XDG_RUNTIME_DIR: a cron job must find those of a shell


class Scratch:
    """The scratch folder of one execution: same identity, same folder.

    It outlives the stage until dvc.lock has recorded the outputs: DVC deletes them before another attempt, so whatever
    ends the run in between must find them here. `identity["key"]` is the run-cache key of the stage.
    """

    def __init__(self, stage: str, identity: dict[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        sweep()
        self.folder = paths.SCRATCH / stage / digest
        self.state = self.folder / "state"
        self.outs = self.folder / "outs"
        self.fresh_because = None if self.folder.exists() else self._difference(identity)
        self.state.mkdir(parents=True, exist_ok=True)
        if not self.finished:
            shutil.rmtree(self.outs, ignore_errors=True)
        self.outs.mkdir(exist_ok=True)
        write_atomically(self.folder / "identity.json", json.dumps(identity, indent=1, sort_keys=True).encode())

    @property
    def finished(self) -> bool:
        return (self.folder / "finished").exists()

    def finish(self) -> None:
        """All outputs are written, to the disk before the mark; what the work needed is no longer."""
        _flush(self.outs)
        self._mark("finished")
        shutil.rmtree(self.state)

    def place(self, outs: list[str]) -> None:
        """Put the finished outputs at their final paths, as links where the file system can, and keep them here."""
        for out in outs:
            staged, final = self.outs / out, Path(out)
            final.parent.mkdir(parents=True, exist_ok=True)
            if final.is_dir() and not final.is_symlink():
                shutil.rmtree(final)
            else:
                final.unlink(missing_ok=True)
            if staged.is_dir():
                shutil.copytree(staged, final, copy_function=link_or_copy)
            else:
                link_or_copy(staged, final)
            _flush(final)
            _flush_one(final.parent)
        self._mark("placed")

    def _mark(self, name: str) -> None:
        """Write a mark that is on the disk before anything is done because of it."""
        (self.folder / name).touch()
        _flush_one(self.folder)

    def _difference(self, identity: dict[str, Any]) -> str | None:
        """Why an earlier unfinished execution of the stage cannot be resumed."""
        others = [
            mark for mark in self.folder.parent.glob("*/identity.json") if not mark.with_name("finished").exists()
        ]
        if not others:
            return None
        last = max(others, key=lambda mark: mark.stat().st_mtime)
        before, now = _flat(json.loads(last.read_text())), _flat(identity)
        changed = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
        return ", ".join(sorted(changed - {"key"}))


def sweep() -> None:
    """Drop the folders of executions whose outputs are in place and recorded in dvc.lock.

    One process at a time: of stages that start together, none may take what another has just made anew.
    """
    paths.SCRATCH.mkdir(exist_ok=True)
    with (paths.SCRATCH / "sweep.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        swept = paths.SCRATCH / "swept"
        shutil.rmtree(swept, ignore_errors=True)  # what a killed one left
        recorded = {stage: lock.key(entry) for stage, entry in lock.read_if_whole(Path()).items()}
        for mark in paths.SCRATCH.glob("*/*/placed"):
            identity = json.loads((mark.parent / "identity.json").read_text())
            stage = mark.parent.parent.name
            if recorded.get(stage) == identity["key"]:
                mark.parent.rename(swept)  # all at once, or half a folder would count as finished
                shutil.rmtree(swept)
                _share(stage)


def _share(stage: str) -> None:
    """Let what the ingest of `prepare@<dataset>` keeps be the files in data/: DVC has put equal ones there."""
    dataset = stage.removeprefix("prepare@")
    for kept in (paths.ingest(dataset) / "last").glob("*"):
        with suppress(OSError):  # the data set may be prepared again at this moment
            placed = (paths.dataset(dataset) / "images" / kept.name).resolve()
            if placed.stat().st_size == kept.stat().st_size and not placed.samefile(kept):
                link = kept.with_name(f"{kept.name}.link")
                link.unlink(missing_ok=True)
                os.link(placed, link)
                link.replace(kept)


def _flush(path: Path) -> None:
    """Have the disk hold a file, or a folder with all that is in it: a mark must not outlive what it speaks of."""
    for inner in path.rglob("*"):
        _flush_one(inner)
    _flush_one(path)


def _flush_one(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError:
        if not path.is_dir():  # some network file systems cannot do it to a folder
            raise
    finally:
        os.close(number)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """The file `source` also at `target`: without taking room where the file system can link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def write_atomically(path: Path, content: bytes) -> None:
    """A reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def device_lock(device: str, slots: int, take: int) -> Iterator[None]:
    """Hold `take` of the `slots` places on a device of this machine; waits, and says so, while others hold too many.

    It takes all or none: two trainings never wait for the places that the other has. The lock belongs to the process:
    it goes with it, however it ends. All trainings of a user on a machine meet in one folder; CONTRAIL_LOCKS names
    another one for those that shall wait for nobody.
    """
    folder = Path(os.environ.get("CONTRAIL_LOCKS", LOCKS.format(os.getuid())))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = [(folder / f"{device.replace(':', '-')}-{slot}.lock").open("a+") for slot in range(slots)]
    told = False
    try:
        while not _lock_some(files, take):
            if not told:
                needs = f"this one needs {take} of its {slots} place(s)"
                print(f"waiting: other training(s) hold {device}, {needs} (locks in {folder})", flush=True)
                told = True
            time.sleep(0.5)
        yield
    finally:
        for file in files:
            file.close()


def _lock_some(files: list[Any], take: int) -> bool:
    held: list[Any] = []
    for file in files:
        if len(held) < take and _try_lock(file):
            held.append(file)
    if len(held) == take:
        return True
    for file in held:
        fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _try_lock(file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for key, value in tree.items() for k, v in _flat(value, f"{prefix} {key}".strip()).items()}
