"""Recipes: other studies of the same pipeline, each a params.yaml with the lock and the results it led to.

    recipes/<study>/{params.yaml, dvc.lock, results.json}  ◀── use ──▶  params.yaml, dvc.lock, data/report/results.json

Outputs need not be kept: DVC's cache holds them under the hashes that dvc.lock names.
"""

import shutil
import subprocess
from pathlib import Path

from pipeline import graph, params, paths
from pipeline.errors import Refusal
from pipeline.sentences import hinted

FILES = {  # of the current study → of a recipe
    Path("params.yaml"): "params.yaml",
    Path("dvc.lock"): "dvc.lock",
    paths.REPORT / "results.json": "results.json",
}
BROKEN = "the current study cannot be left: correct its params.yaml, or `git checkout -- params.yaml` takes it back"


class RecipeError(Refusal):
    """A study cannot be swapped or tried."""


def use(name: str, root: Path) -> list[str]:
    """Make recipes/<name> the current study and put the current one beside it.

    Outputs that the new study does not have are removed, those of its lock come from the cache. Returns the stages
    that are not up to date then. RecipeError: no such recipe, or uncommitted changes would be overwritten.
    """
    current = _current(root)
    recipe = find(name, root)
    if name == current:
        raise RecipeError(f"{name} is the current study: `git checkout -- params.yaml dvc.lock` takes its changes back")
    refuse_unsaved(root)
    _swap(current, _stages(root), recipe, root)
    return [step.stage for step in graph.plan(root) if step.action != "nothing"]


def begin(name: str, text: str, root: Path) -> str | None:
    """Make the params.yaml `text` the current study, as recipes/<name>; the study that is left, None if it is the same.

    RecipeError if there is such a recipe, or uncommitted changes would be overwritten.
    """
    current = _current(root)
    refuse_unsaved(root)
    recipe = root / "recipes" / name
    if name != current and recipe.exists():
        raise RecipeError(
            f"recipes/{name} is there already: `contrail use {name}` makes it current; or give another --name"
        )
    before = [] if name == current else _stages(root)  # drafting a broken study again repairs it
    recipe.mkdir(parents=True, exist_ok=True)
    (recipe / "params.yaml").write_text(text)
    if name == current:
        _copy(recipe / "params.yaml", root / "params.yaml")
        return None
    _swap(current, before, recipe, root)
    return current


def refuse_unsaved(root: Path) -> None:
    """Refuse if a swap would lose anything: what git does not have and the recipe of the same name neither."""
    recipe = root / "recipes" / _current(root)
    changed = git(root, "status", "--porcelain", "--", *map(str, FILES), "data", str(recipe)).splitlines()
    saved = all(_content(root / ours) == _content(recipe / theirs) for ours, theirs in FILES.items())
    if changed and not saved:
        raise RecipeError(
            f"uncommitted changes in {', '.join(line[3:] for line in changed)}: commit them, "
            "or take them back with `git checkout -- params.yaml dvc.lock data`"
        )


def find(name: str, root: Path) -> Path:
    """The folder of a recipe; RecipeError if there is none of that name."""
    known = names(root)
    if name in known:
        return root / "recipes" / name
    hint = hinted(name, known)
    raise RecipeError(f"there is no recipes/{name}/params.yaml{hint} The recipes are {', '.join(known) or 'none yet'}")


def names(root: Path) -> list[str]:
    """The recipes that `use` takes."""
    return sorted(path.parent.name for path in (root / "recipes").glob("*/params.yaml"))


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def git(root: Path, *arguments: str) -> str:
    """What git answers; RecipeError where there is no repository."""
    process = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RecipeError(f"this needs the project to be a git repository: {process.stderr.strip()}")
    return process.stdout


def _swap(current: str, before: list[graph.Node], recipe: Path, root: Path) -> None:
    for ours, theirs in FILES.items():
        _copy(root / ours, root / "recipes" / current / theirs)
        _copy(recipe / theirs, root / ours)
    after = {out: in_git for node in graph.read(root) for out, in_git in node.outs.items()}
    for out in (out for node in before for out in node.outs):
        if after.get(out, True) and Path(out) not in FILES:  # not in the new study, or a metric of the old one
            remove(root / out)
    graph.checkout(root)


def _current(root: Path) -> str:
    """The name of the current study; RecipeError if its params.yaml does not say it."""
    try:
        name = params.read(root / "params.yaml").get("study")
    except Refusal as error:
        raise RecipeError(f"{BROKEN}: {error}") from None
    if not isinstance(name, str):
        raise RecipeError(f"{BROKEN}: it has no `study`")
    return name


def _stages(root: Path) -> list[graph.Node]:
    """The stages of the current study; RecipeError if they cannot be told, and so what is to be removed neither."""
    try:
        return graph.read(root)
    except Refusal as error:
        raise RecipeError(f"{BROKEN}: {error}") from None


def _copy(source: Path, target: Path) -> None:
    """A new file: what stands at `target` may be a link into DVC's cache."""
    target.unlink(missing_ok=True)
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
