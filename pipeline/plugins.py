"""A plug-in is a file; its file name is its registration: `method: {name: byol}` loads stages/methods/byol.py.

What a file of each folder holds, and what params.yaml may therefore say of it, is in KINDS.
"""

import importlib
import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, InstanceOf, ValidationInfo

from pipeline.errors import ParamsError
from pipeline.params import checked, keywords
from pipeline.sentences import BlockError, Problem, hinted, shown

STAGES = Path(__file__).resolve().parent.parent / "stages"

# folder → the function that a plug-in file defines; None: the one public class of the file
KINDS = {
    "datasets": "load",
    "budgets": "select",
    "views": "make_views",
    "encoders": None,
    "methods": None,
    "probes": "score",
    "objectives": None,
    "selectors": "select",
}


@dataclass(frozen=True)
class Spec:
    """A checked plug-in call: which one, with which arguments."""

    kind: str
    name: str
    arguments: dict[str, Any]

    def make(self, *positional: Any) -> Any:
        return load(self.kind, self.name)(*positional, **self.arguments)


def names(kind: str) -> list[str]:
    """The plug-ins of a kind, found by folder."""
    return sorted(p.stem for p in (STAGES / kind).glob("*.py") if not p.stem.startswith("_"))


def load(kind: str, name: str) -> Callable:
    """The plug-in object of stages/<kind>/<name>.py; an unknown name is a ParamsError that lists the known ones."""
    known = names(kind)
    if name not in known:
        hint = hinted(name, known)
        raise ParamsError(f"there is no stages/{kind}/{name}.py{hint} The {kind} are {', '.join(known)}")
    module, file = _imported(kind, name), f"stages/{kind}/{name}.py"
    attribute = KINDS[kind]
    if attribute:
        if not hasattr(module, attribute):
            raise ParamsError(f"{file} does not define `{attribute}`, which is what a plug-in of {kind} is called by")
        return getattr(module, attribute)
    classes = [
        item
        for item_name, item in inspect.getmembers(module, inspect.isclass)
        if item.__module__ == module.__name__ and not item_name.startswith("_")
    ]
    if len(classes) != 1:
        found = " and ".join(item.__name__ for item in classes) or "none"
        raise ParamsError(f"{file} has to define one public class, not {found}: begin the names of others with _")
    return classes[0]


def _imported(kind: str, name: str) -> Any:
    """The module of a plug-in; ParamsError with the line at which it cannot be imported."""
    try:
        return importlib.import_module(f"stages.{kind}.{name}")
    except Exception as error:  # whatever a person's file does
        file, line = _blamed(error)
        where = file.removeprefix(f"{STAGES.parent}/") + (f", line {line}" if line else "")
        what = getattr(error, "msg", None) or str(error)
        raise ParamsError(f"{where}: cannot be imported, {type(error).__name__}: {what}") from error


def _blamed(error: Exception) -> tuple[str, int | None]:
    """The last place in stages/ that an error of an import went through."""
    if isinstance(error, SyntaxError):
        return str(error.filename), error.lineno
    steps = traceback.extract_tb(error.__traceback__)
    own = [(step.filename, step.lineno) for step in steps if Path(step.filename).is_relative_to(STAGES)]
    return own[-1] if own else (str(STAGES), None)


def fetcher(source: str) -> Callable[[str], None]:
    """The function `fetch(path)` of stages/datasets/<source>.py, which downloads what `load` reads."""
    load("datasets", source)  # a wrong name is refused in words
    fetch = getattr(importlib.import_module(f"stages.datasets.{source}"), "fetch", None)
    if fetch is None:
        raise ParamsError(
            f"the source {source} has nothing to download: its images are there, or are yours to put there"
        )
    return fetch


def remover(source: str) -> Callable[..., None]:
    """The function `remove(ids, *, path, …)` of stages/datasets/<source>.py, which takes images away for good."""
    load("datasets", source)
    remove = getattr(importlib.import_module(f"stages.datasets.{source}"), "remove", None)
    if remove is None:
        raise ParamsError(
            f"the images of the source {source} are published as one set: none can be taken out of it; take the data "
            "set out of params.yaml"
        )
    return remove


def command(name: str) -> Callable:
    """The function of stages/<name>.py: `stages.pretrain.pretrain`."""
    return getattr(importlib.import_module(f"stages.{name}"), name)


def specify(kind: str, block: Any, where: str) -> Spec:
    """A block `{name: ..., **arguments}` of params.yaml as a checked Spec; ParamsError says what is wrong with it."""
    try:
        return _specify(kind, block, where)
    except BlockError as error:
        raise error.at(where) from None


def _specify(kind: str, block: Any, where: str) -> Spec:
    known = ", ".join(names(kind))
    if not isinstance(block, dict):
        raise BlockError(Problem((), f"must be a mapping with a `name`, one of {known}, not {shown(block)}"))
    if "name" not in block:
        raise BlockError(Problem((), f"'name' is missing; it is one of {known}"))
    try:
        function = load(kind, str(block["name"]))
    except ParamsError as error:
        raise BlockError(Problem(("name",), str(error))) from None
    values = {key: value for key, value in block.items() if key != "name"}
    return Spec(kind, block["name"], checked(function, frozenset(keywords(function)), values, where))


def plugin(kind: str) -> Any:
    """The annotation of a parameter that names a plug-in: `method: plugin("methods")`."""

    def validate(block: Any, info: ValidationInfo) -> Spec:
        return _specify(kind, block, (info.context or {}).get("where", ""))

    return Annotated[InstanceOf[Spec], BeforeValidator(validate)]


def partial_of(spec: Spec) -> Callable:
    """The plug-in with its arguments bound, its positional ones still open."""
    return partial(load(spec.kind, spec.name), **spec.arguments)
