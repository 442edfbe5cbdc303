"""What a running stage depends on, so that an edit during the run is noticed.

DVC records the state of the dependencies *after* the command. If code or parameters are edited while a training runs,
the lock would say that the edited version made the outputs. So a stage looks at its inputs when it starts and again
before it hands its outputs over. What it had imported by the first look must not have been edited since it began.
"""

import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline import params
from pipeline.graph import inside, lookup

TICK = 0.01  # seconds: the kernel rounds down when a process began; it imports nothing of ours that soon


@dataclass(frozen=True)
class Fingerprint:
    """The inputs of one stage at one moment: its own parameters, its files, its folders."""

    params: dict[str, Any]  # "runs.simclr" → value
    files: dict[str, str]  # path → md5 of the content, or of the listing (name, size, mtime) of a folder
    stats: dict[str, tuple[int, int] | None]  # path → size and mtime of a file: while both stay, so does the content

    @classmethod
    def take(cls, values: dict[str, Any], keys: list[str], paths: list[str]) -> "Fingerprint":
        """Of the parameters at `keys` of `values`, as they were read, and of the files and folders at `paths`."""
        stats = {path: _stat(Path(path)) for path in paths}  # before the content: an edit in between is seen
        files = {path: _state(Path(path)) for path in sorted(paths)}
        return cls({key: lookup(values, key) for key in keys}, files, stats)

    def changes(self) -> list[str]:
        """What differs now, a phrase each: "stages/methods/simclr.py (edited 14:03:10)"."""
        try:
            values = params.read()
            files = [path for path in self.files if self._differs(path)]
        except Exception as error:  # a half-written params.yaml is a change like any other
            return [f"params.yaml ({error})"]
        edited = _edited(Path("params.yaml"))
        found = [f"params.yaml: {key} ({edited})" for key in self.params if lookup(values, key) != self.params[key]]
        return found + [f"{path} ({_edited(Path(path))})" for path in files]

    def _differs(self, path: str) -> bool:
        stat = _stat(Path(path))
        return (stat is None or stat != self.stats[path]) and _state(Path(path)) != self.files[path]


def edited_since_start(paths: list[str]) -> list[str]:
    """The modules at or below `paths`, a phrase each, whose file was touched after this process began."""
    root, began = f"{Path.cwd()}/", _began() + TICK
    files = [str(getattr(module, "__file__", None)) for module in list(sys.modules.values())]
    own = [file.removeprefix(root) for file in files if file.startswith(root)]
    code = sorted({file for file in own if any(inside(file, path) for path in paths)})
    touched = [path for path in map(Path, code) if not path.exists() or path.stat().st_ctime > began]
    return [f"{path} ({_edited(path)})" for path in touched]


def _began() -> float:
    """When this process began, in seconds by the clock of files."""
    if sys.platform != "linux":
        import psutil

        return psutil.Process().create_time()
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # since the machine booted
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _stat(path: Path) -> tuple[int, int] | None:
    """Size and mtime of a file; None for a folder and for what is missing."""
    if not path.is_file():
        return None
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _state(path: Path) -> str:
    if path.is_dir():
        entries = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        listing = [(str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns) for p in entries]
        return hashlib.md5(json.dumps(listing).encode()).hexdigest()
    return md5(path) if path.exists() else "missing"


def _edited(path: Path) -> str:
    if not path.exists():
        return "gone"
    return f"edited {datetime.fromtimestamp(path.stat().st_mtime):%H:%M:%S}"
