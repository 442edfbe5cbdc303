"""DVC's graph of this project: the stages, their keys, what dvc.lock records and what the next run would do.

Everything here reads; stages are run by pipeline/repro.py. Only pipeline/store.py may import DVC too, and both only
inside functions: most commands never need it. A stage's *key* is the name of its entry in DVC's run-cache: the hash of
its command, the content of its dependencies, its parameters and the paths of its outputs. Equal keys mean equal work.
"""

import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from pipeline import lock, repro
from pipeline.errors import Refusal

HERE = Path()
P = ParamSpec("P")
T = TypeVar("T")


class StageError(Refusal):
    """dvc.yaml cannot be read, or has no such stage."""


@dataclass(frozen=True)
class Node:
    """One stage of dvc.yaml, resolved."""

    name: str  # "pretrain@simclr"
    deps: list[str]  # paths of code and data, params.yaml excluded
    params: dict[str, Any]  # "runs.simclr" → its value in params.yaml
    outs: dict[str, bool]  # path → does git keep it (metrics and plots that DVC does not cache)
    upstream: list[str]  # stages that make a dependency of this one
    meta: dict[str, Any]


@dataclass(frozen=True)
class LockEntry:
    """What dvc.lock records of one stage."""

    stage: str
    key: str
    metrics: dict[str, float]  # "knn.top1.test" → 0.93; empty when the metric file is not the recorded one


@dataclass(frozen=True)
class Step:
    """What the next run would do with one stage, and why."""

    stage: str
    action: Literal["nothing", "restore", "run"]
    reasons: list[str]
    key: str | None  # None: not known before an upstream stage has run
    certain: bool  # False: what comes out of the stages before it decides


def _steadily(look: Callable[P, T]) -> Callable[P, T]:
    """`look`, again after a moment if another stage's DVC was in the middle of rewriting dvc.lock."""

    @wraps(look)
    def again(*arguments: P.args, **options: P.kwargs) -> T:
        for pause in (0.1, 0.3, 1.0):
            try:
                return look(*arguments, **options)
            except StageError as error:
                if "dvc.lock" not in str(error):
                    raise
                time.sleep(pause)
        return look(*arguments, **options)

    return again


@_steadily
def read(root: Path = HERE) -> list[Node]:
    """The stages of dvc.yaml in running order; StageError says what is wrong with dvc.yaml."""
    with _repo(root) as repo:
        graph = _graph(repo)
        return [_node(stage, [other.name for other in graph.successors(stage)]) for stage in _ordered(graph)]


def select(nodes: list[Node], targets: Iterable[str]) -> list[Node]:
    """The named stages and all that they depend on, in running order; `pretrain` means every `pretrain@...`."""
    wanted = set(named(nodes, targets))
    for node in reversed(nodes):
        if node.name in wanted:
            wanted.update(node.upstream)
    return [node for node in nodes if node.name in wanted]


def named(nodes: list[Node], targets: Iterable[str]) -> list[str]:
    """The stages that `targets` name, in running order; all of them if there is no target."""
    names = [node.name for node in nodes]
    targets = list(targets) or names
    for target in targets:
        if target not in names and target not in {name.partition("@")[0] for name in names}:
            from pipeline.sentences import hinted

            raise StageError(
                f"dvc.yaml has no stage {target!r}{hinted(target, names)} The stages are {', '.join(names)}"
            )
    return [name for name in names if name in targets or name.partition("@")[0] in targets]


@_steadily
def identity(name: str, root: Path = HERE) -> tuple[str, dict[str, str]]:
    """The run-cache key of a stage as its inputs are now, sha256 as 64 hex digits, and path → md5 of its dependencies.

    The md5 of a folder ends in ".dir".
    """
    with _repo(root) as repo:
        stage = repo.stage.load_one("dvc.yaml", name)
        stage.save_deps()
        hashes = {dep.def_path: dep.hash_info.value for dep in stage.deps if dep not in stage.params}
        return lock.key(_entry(stage)), hashes


@_steadily
def files(name: str, path: str, root: Path = HERE) -> dict[str, str]:
    """File below the folder `path`, a dependency of a stage → its md5 now; unchanged files are not read again.

    Of a dependency that is a file: that file, by its own name; of one that is missing: nothing.
    """
    with _repo(root) as repo:
        stage = repo.stage.load_one("dvc.yaml", name)
        [dep] = [dep for dep in stage.deps if dep.def_path == path]
        if not dep.exists:
            return {}
        dep.save()
        if not dep.hash_info.isdir:
            return {Path(path).name: dep.hash_info.value}
        return {"/".join(key): info.value for key, _, info in dep.obj}


def producer(path: str, root: Path = HERE) -> str:
    """The command that brings a missing path back: its stage's, or git's for a source file."""
    for node in read(root):
        if any(inside(path, out) for out in node.outs):
            return f"dvc repro {node.name}"
    return f"git checkout -- {path}"


def lock_entries(root: Path = HERE) -> list[LockEntry]:
    """The entries of dvc.lock whose stage is in dvc.yaml, in running order, with the numbers of their metric files."""
    entries = lock.read(root)
    nodes = [node for node in read(root) if node.name in entries]
    return [LockEntry(node.name, lock.key(entries[node.name]), _metrics(root, node, entries)) for node in nodes]


def status(root: Path = HERE) -> dict[str, list[str]]:
    """What DVC finds changed of each stage that is in dvc.lock; stages that are up to date are absent."""
    command = repro.dvc("--wait-for-lock", "status", "--json")
    process = subprocess.run(command, cwd=root, env=repro.environment(), capture_output=True, text=True, check=False)
    if process.returncode:
        raise StageError(" ".join(process.stderr.split()).removeprefix("ERROR: "))
    found, locked = json.loads(process.stdout), lock.read(root)
    return {
        name: [reason for item in items for reason in _reasons(item)] if name in locked else ["has not run yet"]
        for name, items in found.items()
    }


def plan(root: Path = HERE) -> list[Step]:
    """What the next run would do with each stage: nothing, restore it from the run-cache, or run it."""
    entries = lock.read(root)
    restored: dict[str, Any] = {}  # path → the output as it will be once it is restored
    steps: dict[str, Step] = {}
    with _repo(root) as repo:
        graph = _graph(repo)
        for stage in _ordered(graph):
            upstream = [other.name for other in graph.successors(stage)]
            waits = [f"if {name} comes out differently" for name in upstream if steps[name].action == "run"]
            steps[stage.name] = _step(stage, entries.get(stage.name), waits, restored)
    return list(steps.values())


def checkout(root: Path = HERE) -> list[str]:
    """Put every output that dvc.lock records and the cache holds into place, metrics included.

    Returns the stages that the cache cannot restore.
    """
    entries = lock.read(root)
    missing = []
    with _repo(root) as repo, repo.lock:
        for stage in _ordered(_graph(repo)):
            cached = _cached(stage, entries[stage.name]) if stage.name in entries else None
            if cached is None:
                missing.append(stage.name)
                continue
            in_git = {out.def_path for out in stage.outs if not out.use_cache}
            for out in cached.outs:  # a link into the cache is no place for a file that git keeps
                with repo.stage_cache._cache_type_copy() if out.def_path in in_git else nullcontext():
                    out.checkout(force=True)
    return missing


@contextmanager
def _repo(root: Path) -> Iterator[Any]:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with chdir(root), Repo() as repo:  # DVC takes some paths relative to the current directory
            yield repo
    except DvcException as error:
        raise StageError(" ".join(str(error).split())) from error


def _graph(repo: Any) -> Any:
    from dvc.repo.graph import build_graph

    return build_graph(repo.stage.load_all("dvc.yaml"))


def _ordered(graph: Any) -> list[Any]:
    """Upstream first; stages that could run side by side in the order of dvc.yaml."""
    return list(TopologicalSorter({stage: list(graph.successors(stage)) for stage in graph}).static_order())


def _node(stage: Any, upstream: list[str]) -> Node:
    deps = [dep.def_path for dep in stage.deps if dep not in stage.params]
    params = {key: value for dep in stage.params for key, value in dep.read_params(flatten=False).items()}
    values = {key: lookup(params, key) for dep in stage.params for key in dep.params}
    if hidden := next(lock.unkeyed(values), None):
        raise StageError(
            f"params.yaml: {hidden}: DVC's run-cache does not look at parameters called {' or '.join(lock.UNKEYED)} "
            f"and would bring back the outputs of another value; give it another name"
        )
    outs = {out.def_path: not out.use_cache for out in stage.outs}
    return Node(stage.name, deps, values, outs, upstream, stage.meta or {})


def _entry(stage: Any) -> dict[str, Any]:
    from dvc.stage.serialize import to_single_stage_lockfile

    return to_single_stage_lockfile(stage)


def _step(stage: Any, locked: dict[str, Any] | None, waits: list[str], restored: dict[str, Any]) -> Step:
    unknown = [why for dep in stage.deps if (why := _predict(dep, restored))]
    if waits or unknown:
        own = [] if locked and unknown else lock.differences(locked, _entry(stage))
        return Step(stage.name, "run", own or waits or unknown, None, certain=bool(own))
    key = lock.key(_entry(stage))
    reasons = lock.differences(locked, _entry(stage))
    same = locked is not None and lock.key(locked) == key
    if same:
        reasons += [f"{path} {how}" for out in stage.outs for path, how in out.workspace_status().items()]
    if not reasons:
        return Step(stage.name, "nothing", [], key, certain=True)
    if cached := _cached(stage, locked if same else _remembered(stage, key)):
        restored |= {out.def_path: out for out in cached.outs}
        return Step(stage.name, "restore", reasons, key, certain=True)
    return Step(stage.name, "run", reasons, key, certain=True)


def _predict(dep: Any, restored: dict[str, Any]) -> str | None:
    """Give `dep` the hash that it will have when its stage starts; why not, if that cannot be known."""
    from dvc.dependency.base import DependencyDoesNotExistError
    from dvc_data.hashfile.meta import Meta

    for path, out in restored.items():
        if inside(dep.def_path, path):
            dep.hash_info, dep.meta = out.get_obj(filter_info=dep.fs_path).hash_info, Meta()
            return None
    if parts := {path: out for path, out in restored.items() if inside(path, dep.def_path)}:
        dep.hash_info, dep.meta = _together(dep, parts), Meta()
        return None
    try:
        dep.save()
    except DependencyDoesNotExistError:
        return f"{dep.def_path} is missing"
    return None


def _together(dep: Any, parts: dict[str, Any]) -> Any:
    """The hash of a folder when the outputs `parts` have come from the cache; what else is there now stays."""
    from dvc_data.hashfile.tree import Tree

    tree = Tree()
    if dep.exists:
        dep.save()
        for key, meta, info in dep.obj:
            if not any(inside("/".join([dep.def_path, *key]), path) for path in parts):
                tree.add(key, meta, info)
    for path, out in parts.items():
        place = Path(path).relative_to(dep.def_path).parts
        files = out.get_obj() if out.hash_info.isdir else [((), None, out.hash_info)]
        for key, meta, info in files:
            tree.add((*place, *key), meta, info)
    tree.digest()
    return tree.hash_info


def _remembered(stage: Any, key: str) -> dict[str, Any] | None:
    """The newest run-cache entry of `key`."""
    cache = stage.repo.stage_cache
    folder = Path(cache.cache_dir) / key[:2] / key
    entries = sorted(folder.glob("*"), key=lambda entry: entry.stat().st_mtime)
    return cache._load_cache(key, entries[-1].name) if entries else None


def _cached(stage: Any, entry: dict[str, Any] | None) -> Any:
    """A stage whose outputs are those of `entry`, all of them cached; None if the cache does not hold them."""
    if entry is None:
        return None
    cached = stage.repo.stage_cache._create_stage(entry, wdir=stage.wdir)
    return cached if all(not out.changed_cache() for out in cached.outs) else None


def _reasons(item: Any) -> list[str]:
    """One item of `dvc status --json` as phrases: {"changed deps": {"params.yaml": {"runs.a": "modified"}}}."""
    if not isinstance(item, dict):
        return [str(item)]
    changes = [change for kind in item.values() for change in kind.items()]
    nested = [how.items() if isinstance(how, dict) else [(path, how)] for path, how in changes]
    return [f"{path} {how}" for pairs in nested for path, how in pairs]


def _metrics(root: Path, node: Node, entries: dict[str, Any]) -> dict[str, float]:
    """The numbers in the stage's metric files that git keeps, where they are the files that dvc.lock records."""
    recorded = {out["path"]: out.get("md5") for out in entries[node.name].get("outs", [])}
    numbers: dict[str, float] = {}
    for path in (root / out for out, in_git in node.outs.items() if in_git and out.endswith(".json")):
        name = path.relative_to(root).as_posix()
        if path.exists() and hashlib.md5(path.read_bytes()).hexdigest() == recorded.get(name):
            numbers |= lock.flat(json.loads(path.read_bytes()))
    return numbers


def lookup(values: Any, key: str) -> Any:
    """What stands at a dotted key of a nested dictionary; None if nothing does."""
    for step in key.split("."):
        values = values.get(step) if isinstance(values, dict) else None
    return values


def inside(path: str, folder: str) -> bool:
    """Whether a path is that of the folder or of something in it."""
    return path == folder or path.startswith(f"{folder}/")
