"""Is this machine, and this working copy, as the project expects them? One finding a line, each with what to do."""

import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pipeline import graph, lock, params, paths, repro, store, tracking
from pipeline.errors import Refusal
from pipeline.trail import forget

LOW_DISK = 5.0  # GB
UNMANAGED = ("README.md", "raw")  # in data/, but not made by a stage
OF_GIT = (".gitignore", ".gitkeep")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: Literal["ok", "note", "fault"]  # note: works, but should be known; fault: breaks or misleads
    words: str


def examine(root: Path) -> Iterator[Finding]:
    """Look at everything; a look that is refused is a fault itself."""
    for what, look in LOOKS.items():
        try:
            yield from look(root)
        except Refusal as error:
            yield Finding(what, "fault", str(error))


def ranges(root: Path) -> Iterator[Finding]:
    """Python and each required package against its range in pyproject.toml."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    python = ".".join(map(str, sys.version_info[:3]))
    yield _in_range("python", python, SpecifierSet(project["requires-python"]))
    lines = [*project["dependencies"], *project.get("optional-dependencies", {}).get("worker", [])]
    needed = {requirement.name: requirement for requirement in map(Requirement, lines)}
    for name in sorted(needed.keys() - {project["name"]}):
        try:
            yield _in_range(name, metadata.version(name), needed[name].specifier)
        except metadata.PackageNotFoundError:
            yield Finding(name, "fault", f"is not installed: pip install '{needed[name]}'")


def pins(root: Path) -> Iterator[Finding]:
    """The installed packages against the tested set of constraints.txt."""
    lines = (root / "constraints.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    installed = {name: _installed(name) for name in tested}
    others = [f"{name} {now} instead of {tested[name]}" for name, now in installed.items() if now != tested[name]]
    if others:
        yield Finding("constraints.txt", "note", f"not the tested versions: {', '.join(others)}")
    else:
        yield Finding("constraints.txt", "ok", f"the {len(tested)} tested versions")


def stale(root: Path) -> Iterator[Finding]:
    """Entries of dvc.lock whose stage is gone from dvc.yaml."""
    extra = sorted(lock.read(root).keys() - {node.name for node in graph.read(root)})
    if extra:
        yield Finding("dvc.lock", "note", f"entries of stages that are gone, delete their blocks: {', '.join(extra)}")
    else:
        yield Finding("dvc.lock", "ok", "every entry is a stage of dvc.yaml")


def strangers(root: Path) -> Iterator[Finding]:
    """Files in data/ that no stage of the current study makes."""
    outs = {root / out for node in graph.read(root) for out in node.outs}
    data = root / paths.DATA
    found = sorted(str(path.relative_to(root)) for path in _strange(data, outs, {data / name for name in UNMANAGED}))
    if found:
        yield Finding("data", "fault", f"no stage of this study makes these, remove them: {', '.join(found)}")
    else:
        yield Finding("data", "ok", "holds what the stages make and nothing else")


def missing(root: Path) -> Iterator[Finding]:
    """Files that a stage reads, that none makes and that are not there: images, weights."""
    wanted = {path: stage for path, stage in inputs(graph.read(root)).items() if not (root / path).exists()}
    if wanted:
        words = ", ".join(f"{path} for {stage}" for path, stage in wanted.items())
        yield Finding("inputs", "fault", f"not there: {words}; put it there, or `contrail fetch` the data set")
    else:
        yield Finding("inputs", "ok", "what the stages read is there, or is made by others")


def inputs(nodes: list[graph.Node]) -> dict[str, str]:
    """What a stage reads and none makes, with the first stage that reads it."""
    outs = {Path(out) for node in nodes for out in node.outs}
    made = outs | {folder for out in outs for folder in out.parents}
    wanted: dict[str, str] = {}
    for node in nodes:
        for dep in node.deps:
            if Path(dep) not in made and outs.isdisjoint(Path(dep).parents):
                wanted.setdefault(dep, node.name)
    return wanted


def forgetting(root: Path) -> Iterator[Finding]:
    """A `contrail forget` that was interrupted: images that should be gone are still somewhere."""
    if names := forget.begun(root).names:
        words = f"was interrupted: `contrail forget --image {shlex.quote(names[0])}` finishes all of it"
        yield Finding("forget", "fault", words)
    else:
        yield Finding("forget", "ok", "none was interrupted")


def runs(root: Path) -> Iterator[Finding]:
    """Runs that the tracking store shows as running although their process is gone: they are closed here."""
    closed = tracking.reap(root, params.read(root / "params.yaml")["study"])
    if closed:
        yield Finding("mlflow", "note", f"closed runs whose process is gone: {', '.join(closed)}")
    else:
        yield Finding("mlflow", "ok", "no run is open whose process is gone")


def pushed(root: Path) -> Iterator[Finding]:
    """Outputs of dvc.lock that only the cache of this machine has."""
    locked, outs = lock.read(root), {out for node in graph.read(root) for out in node.outs if not node.outs[out]}
    oids = {oid for entry in locked.values() for out, oid in lock.hashes(entry["outs"]).items() if out in outs}
    with store.opened(root) as objects:
        here = objects.having(oids, "cache")
        missing = {name: here - objects.having(here, name) for name in objects.places[1:]}
        for name, words in objects.failed.items():
            yield Finding("remote", "note", f"{name} cannot be reached: {words}")
    if not missing and not objects.failed:
        yield Finding("remote", "note", "none: what dvc.lock records is on this machine alone; `dvc remote add -d`")
    for name, absent in missing.items():
        if absent and name not in objects.failed:
            words = f"{name} lacks {len(absent)} of the {len(here)} outputs that the cache holds: `dvc push -r {name}`"
            yield Finding("remote", "note", words)
        elif name not in objects.failed:
            yield Finding("remote", "ok", f"{name} has every output that the cache holds")


def disk(root: Path) -> Iterator[Finding]:
    """Free space where the project lies."""
    free = shutil.disk_usage(root).free / 1e9
    if free < LOW_DISK:
        old = _left(root / paths.SCRATCH)
        held = sum(file.stat().st_size for folder in old for file in folder.rglob("*") if file.is_file()) / 1e9
        names = " ".join(shlex.quote(str(folder.relative_to(root))) for folder in old)
        remedy = f"`rm -r {names}` frees {held:.1f} GB of old attempts" if old else f"{paths.SCRATCH} holds nothing old"
        yield Finding("disk", "fault", f"{free:.1f} GB free: {remedy}; DVC's cache must stay, the recipes need it")
    else:
        yield Finding("disk", "ok", f"{free:.0f} GB free")


def telemetry(root: Path) -> Iterator[Finding]:
    """DVC's own setting; Prefect and MLflow are told by every command of this project."""
    command = repro.dvc("config", "core.analytics")
    answer = subprocess.run(command, cwd=root, env=repro.environment(), capture_output=True, text=True, check=False)
    if answer.stdout.strip() == "false":
        yield Finding("telemetry", "ok", "off")
    else:
        yield Finding("telemetry", "fault", "DVC reports its use: dvc config core.analytics false")


LOOKS: dict[str, Callable[[Path], Iterator[Finding]]] = {
    "packages": ranges,
    "constraints.txt": pins,
    "dvc.lock": stale,
    "inputs": missing,
    "data": strangers,
    "forget": forgetting,
    "mlflow": runs,
    "remote": pushed,
    "disk": disk,
    "telemetry": telemetry,
}


def _left(scratch: Path) -> list[Path]:
    """Copies of quick runs that failed, and of each stage the executions before its newest one."""
    old = list((scratch / "quick").glob("*"))
    for stage in {mark.parent.parent for mark in scratch.glob("*/*/identity.json")}:
        marks = sorted(stage.glob("*/identity.json"), key=lambda mark: mark.stat().st_mtime)
        old += [mark.parent for mark in marks[:-1]]
    return sorted(old)


def _in_range(name: str, version: str, allowed: Any) -> Finding:
    if allowed.contains(version, prereleases=True):
        return Finding(name, "ok", version)
    return Finding(name, "fault", f"{version} is outside {allowed}: pip install '{name}{allowed}'")


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def _strange(folder: Path, outs: set[Path], unmanaged: set[Path]) -> Iterator[Path]:
    """The topmost paths in `folder` that neither are, nor hold, nor lie in one of `outs`."""
    for path in folder.iterdir() if folder.exists() else []:
        if path in outs or path in unmanaged or path.name in OF_GIT:
            continue
        if path.is_dir() and any(path in out.parents for out in outs):
            yield from _strange(path, outs, unmanaged)
        elif not path.is_dir() or any(inner.is_file() and inner.name not in OF_GIT for inner in path.rglob("*")):
            yield path
