"""Every execution of a stage that this repository remembers, as the entry that dvc.lock had of it.

dvc.lock, recipes/*/dvc.lock     as they are
the same files in git            of every commit of every branch
the run-cache                    what was executed here, committed or not, and what remotes know of it
"""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import lock, paths
from pipeline.store import Store

LOCKS = ("dvc.lock", "recipes/*/dvc.lock")
NOW = "dvc.lock"


@dataclass(frozen=True)
class Made:
    """One execution of a stage."""

    stage: str  # "prepare@digits"
    key: str  # its name in the run-cache
    entry: dict[str, Any]
    where: str  # dvc.lock, "recipes/x/dvc.lock", "dvc.lock of 1a2b3c4" or "run-cache": the first that has it

    @property
    def command(self) -> str:
        return self.stage.partition("@")[0]

    @property
    def item(self) -> str:
        return self.stage.partition("@")[2]

    @property
    def deps(self) -> dict[str, str]:
        """Path → md5."""
        return lock.hashes(self.entry.get("deps", []))

    @property
    def outs(self) -> dict[str, str]:
        """Path → md5."""
        return lock.hashes(self.entry.get("outs", []))

    @property
    def block(self) -> dict[str, Any]:
        """What params.yaml said of the item then; keys that the stage did not depend on are absent."""
        found: dict[str, Any] = {}
        for name, value in self.entry.get("params", {}).get("params.yaml", {}).items():
            _, item, *rest = [*name.split("."), ""][:3]
            if item == self.item:
                found |= {rest[0]: value} if rest[0] else value
        return found


def executions(store: Store) -> list[Made]:
    """All of them, each once, those of dvc.lock first."""
    found: dict[tuple[str, str], Made] = {}
    for where, stage, entry in (*_files(store.root), *_commits(store.root), *_runs(store)):
        made = Made(stage, lock.key(entry), entry, where)
        outs = "".join(sorted(made.outs.values()))  # one key may have had several results
        found.setdefault((made.stage, made.key + outs), made)
    return list(found.values())


def trained(name: str, run: str) -> dict[str, str]:
    """The tag `trained`: what the encoder of evaluation `name` learned from, by md5, as JSON; none if it is not known.

    A step is {"images", "list"}, the folder of images and which of them it saw, or {"weights"}, what it started from.
    """
    entries = lock.read(Path.cwd())
    made, used = entries.get(f"pretrain@{run}", {}), entries[f"embed@{name}"]
    encoder = str(paths.encoder(run))
    if "outs" not in made or lock.hashes(made["outs"])[encoder] != lock.hashes(used.get("deps", [])).get(encoder):
        return {}
    block, deps = made["params"]["params.yaml"][f"runs.{run}"], lock.hashes(made["deps"])
    steps = []
    if block["training"]["epochs"]:
        folder = paths.dataset(block["dataset"])
        seen = str(folder / "pretrain" / f"{block['sees']}.parquet")
        steps.append({"images": deps[str(folder / "images")], "list": deps[seen]})
    if not block["init"].endswith(".py"):
        steps.append({"weights": deps[block["init"]]})
    return {"trained": json.dumps(steps)}


def _files(root: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path in (path for pattern in LOCKS for path in sorted(root.glob(pattern))):
        for stage, entry in lock.parse(path.read_text()).items():
            yield path.relative_to(root).as_posix(), stage, entry


def _commits(root: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The entries of all commits, newest first; an entry that did not change from one to the next is parsed once."""
    if not (root / ".git").exists():
        return
    log = _git(root, "log", "--all", "--format=%H", "--raw", "--no-abbrev", "--no-renames", "-m", "--", *LOCKS)
    seen: set[str] = set()
    blobs: set[str] = set()
    commit = ""
    for line in log.splitlines():
        if not line.startswith(":"):
            commit = line or commit
            continue
        blob, path = line.split()[3], line.partition("\t")[2]
        if blob in blobs or not blob.strip("0"):  # a deletion
            continue
        blobs.add(blob)
        _, _, stages = _git(root, "cat-file", "blob", blob).partition("stages:\n")
        for block in re.split(r"(?m)^(?=  \S)", stages):
            if block.strip() and block not in seen:
                seen.add(block)
                for stage, entry in lock.parse(f"stages:\n{block}").items():
                    yield f"{path} of {commit[:7]}", stage, entry


def _runs(store: Store) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The entries of the run-cache, which do not say their stage: the command does."""
    for place in store.places:
        for _, entry in store.runs(place):
            if stage := stage_of(entry):
                yield "run-cache", stage, entry


def stage_of(entry: dict[str, Any]) -> str | None:
    """The stage that an entry's command runs: "python -m stages.prepare digits" is prepare@digits."""
    match = re.fullmatch(r"python -m stages\.(\w+)(?: (\S+))?", str(entry["cmd"]))
    return match and "@".join(filter(None, match.groups()))


def _git(root: Path, *command: str) -> str:
    return subprocess.run(["git", *command], cwd=root, check=True, capture_output=True, text=True).stdout
