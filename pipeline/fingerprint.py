"""What a running stage depends on, so that an edit during the run is noticed.

DVC records the state of the dependencies *after* the command. If code or parameters are edited while a training runs,
the lock would say that the edited version made the outputs. So a stage looks at its inputs when it starts and again
before it hands its outputs over.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline import params


@dataclass(frozen=True)
class Fingerprint:
    """The inputs of one stage at one moment: its own parameters, its files, its folders."""

    params: dict[str, Any]  # "runs.simclr" → value
    files: dict[str, str]  # path → md5 of the content, or of the listing (name, size, mtime) of a folder
    stats: dict[str, tuple[int, int] | None]  # path → size and mtime of a file: while both stay, so does the content

    @classmethod
    def take(cls, keys: list[str], paths: list[str]) -> "Fingerprint":
        """Of the parameters at `keys` of params.yaml and of the files and folders at `paths`."""
        values = params.read()
        stats = {path: _stat(Path(path)) for path in paths}  # before the content: an edit in between is seen
        files = {path: _state(Path(path)) for path in sorted(paths)}
        return cls({key: _lookup(values, key) for key in keys}, files, stats)

    def changes(self) -> list[str]:
        """What differs now, a phrase each: "stages/methods/simclr.py (edited 14:03:10)"."""
        try:
            values = params.read()
            files = [path for path in self.files if self._differs(path)]
        except Exception as error:  # a half-written params.yaml is a change like any other
            return [f"params.yaml ({error})"]
        edited = _edited(Path("params.yaml"))
        found = [f"params.yaml: {key} ({edited})" for key in self.params if _lookup(values, key) != self.params[key]]
        return found + [f"{path} ({_edited(Path(path))})" for path in files]

    def _differs(self, path: str) -> bool:
        stat = _stat(Path(path))
        return (stat is None or stat != self.stats[path]) and _state(Path(path)) != self.files[path]


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


def _lookup(values: Any, key: str) -> Any:
    for step in key.split("."):
        values = values.get(step) if isinstance(values, dict) else None
    return values


def _edited(path: Path) -> str:
    if not path.exists():
        return "gone"
    return f"edited {datetime.fromtimestamp(path.stat().st_mtime):%H:%M:%S}"
