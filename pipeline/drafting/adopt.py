"""A folder of your own → a study: looked at, drafted, linked into data/raw, made the current one.

    DIR ─ survey ─→ draft of recipes/folder ─→ recipes/<name>/params.yaml ─ use ─→ params.yaml
     └──── link ──→ data/raw/<name>

The folder is only read, and nothing is written before all that can be refused has been.
"""

import os
import re
from pathlib import Path

from pipeline import params, paths, recipes
from pipeline.drafting import findings
from pipeline.drafting.draft import Machine, draft, plan
from pipeline.drafting.survey import FolderError, survey
from pipeline.drafting.template import scalar
from pipeline.hardware import cores

TEMPLATE = "folder"
NEXT = """\
  contrail check         # is params.yaml right? edit it as you like
  contrail run --quick   # every stage on a sliver of the images, in a copy
  dvc repro              # the study; or contrail run"""


def adopt(folder: Path, *, name: str | None, labels: Path | None, group: str | None, root: Path) -> list[str]:
    """Make a study of `folder` the current one, and return what was found and decided, line by line.

    folder, labels: absolute paths; name: of the study and its data set, None: that of the folder; group: see `survey`.
    """
    folder, labels = _plain(folder), labels and _plain(labels)
    inside = folder.is_relative_to(root / paths.RAW)
    if not inside and folder.is_relative_to(root / paths.DATA):
        raise FolderError(
            f"{folder} is among what the stages make: move it to {paths.RAW / folder.name}, or out of {paths.DATA}"
        )
    name = _name(folder, name)
    path = folder.relative_to(root) if inside else paths.RAW / name
    recipes.refuse_unsaved(root)
    _refuse_namesake(name, path, root)
    if not inside:
        _refuse_taken(folder, root / path, root)
    found = survey(folder, labels, group)
    template = (root / "recipes" / TEMPLATE / "params.yaml").read_text()
    decided = plan(found, _machine())
    left = recipes.begin(name, draft(template, found, decided, name, path.as_posix()), root)
    if not inside and not (root / path).is_symlink():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(folder)
    lines = [
        f"{folder}{'' if inside else f', linked as {path}'}",
        *findings.seen(found),
        *findings.decided(found, decided),
    ]
    lines += [f"the study {left} is in recipes/{left}: `contrail use {left}` goes back"] if left else []
    return [*lines, f"{name} is the current study, in params.yaml. Next:", NEXT]


def _plain(path: Path) -> Path:
    """Without `..`, while a link stays what it is."""
    return Path(os.path.normpath(path))


def _name(folder: Path, name: str | None) -> str:
    if name is None:
        name = re.sub(r"[^a-z0-9_-]+", "-", folder.name.lower()).strip("-") or "images"
        return name if _readable(name) else f"images-{name}"
    if not _readable(name):
        raise FolderError(
            f"--name {name}: a name begins with a-z, holds only a-z, 0-9, _ and -, and is not true or null"
        )
    return name


def _readable(name: str) -> bool:
    """Whether it is a name in YAML, too, and no number and no such word."""
    return re.fullmatch(r"[a-z][a-z0-9_-]*", name) is not None and scalar(name) == name


def _refuse_namesake(name: str, path: Path, root: Path) -> None:
    """FolderError if the current study is another one of that name: of the same folder, it is drafted again."""
    current = params.read(root / "params.yaml")
    own = current.get("datasets", {}).get(name, {}).get("source", {}).get("path") == path.as_posix()
    if name == TEMPLATE or (name == current["study"] and not own):
        raise FolderError(f"there is another study called {name}: give a --name")


def _refuse_taken(folder: Path, link: Path, root: Path) -> None:
    """FolderError if the link would lead around the repository, or its place is taken."""
    if root.resolve().is_relative_to(folder.resolve()):
        raise FolderError(f"{folder} holds this repository: --path names a folder of images alone")
    if (link.is_symlink() or link.exists()) and link.resolve() != folder.resolve():
        what = f"a link to {link.readlink()}" if link.is_symlink() else "there already"
        raise FolderError(f"{link.relative_to(root)} is {what}: give another --name, or remove it")


def _machine() -> Machine:
    import torch

    return Machine(gpu=torch.cuda.is_available(), cores=cores())
