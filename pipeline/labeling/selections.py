"""The selections of params.yaml, which say what to label next: checked, found by name, and written."""

import json
import re
from pathlib import Path
from typing import Any

from pipeline import params
from pipeline.errors import Refusal
from pipeline.lineage import saw_labels
from pipeline.scratch import write_atomically
from pipeline.sentences import BlockError, Problem, hinted

BLOCK = """\
  {name}:
    evaluation: {evaluation} # the encoder that looks
    dataset: {dataset}
    seed: {seed} # of its run, and of the draws
    images: 100 # how many to label
    select: # values of the paper (arXiv:2110.03006), which takes 400 neighbors for the 50,000 images of CIFAR-10
      {{ name: usl, neighbors: 20, iterations: 100, rounds: 10, weight: 0.5, momentum: 0.9, horizon: 4.0, alpha: 0.5 }}
"""
EMPTY = re.compile(r"^selections: *(\{\})? *(#.*)?$", re.M)


def check_selection(name: str, values: dict[str, Any]) -> None:
    """The evaluation that a selection looks with has features of its data set, from a seed of its run."""
    block = values["selections"][name]
    evaluation = values["evaluations"][block["evaluation"]]
    if block["dataset"] != (dataset := evaluation["dataset"]):
        text = f"the evaluation {block['evaluation']!r} is one of {dataset}, so it must be that, not {block['dataset']}"
        raise BlockError(Problem((), text)).at(f"selections.{name}.dataset")
    if block["seed"] not in (seeds := values["runs"][evaluation["run"]]["seeds"]):
        text = f"the run {evaluation['run']!r} has no seed {block['seed']}, only {', '.join(map(str, seeds))}"
        raise BlockError(Problem((), text)).at(f"selections.{name}.seed")


def check_lists(name: str, values: dict[str, Any]) -> None:
    """A list of images that a budget reads lies inside the path of the source, where DVC sees it change."""
    dataset = values["datasets"][name]
    path = dataset["source"]["path"]
    for budget, block in dataset["budgets"].items():
        file = block["select"].get("file", path)
        if not Path(file).is_relative_to(path) or ".." in Path(file).parts:
            text = f"must lie inside {path}, the path of the source, as DVC watches that, not be {file!r}"
            raise BlockError(Problem((), text)).at(f"datasets.{name}.budgets.{budget}.select.file")


def named(name: str | None, root: Path) -> str:
    """The selection that is meant: by its name, or the only one. Without any, one is written if it is clear which.

    Refusal: no such selection, or several to choose from.
    """
    values = params.read(root / "params.yaml")
    selections = values["selections"]
    if not selections:
        return _written(name or "next", values, root)
    if name is None and len(selections) > 1:
        raise Refusal(f"params.yaml has the selections {', '.join(selections)}: say which")
    if name is not None and name not in selections:
        raise Refusal(f"params.yaml has no selection {name!r}{hinted(name, selections)} It has {', '.join(selections)}")
    return name or next(iter(selections))


def _written(name: str, values: dict[str, Any], root: Path) -> str:
    """The name of a new selection, written into params.yaml where only one encoder comes into question."""
    file, seeing = root / "params.yaml", _seeing(values)
    if not seeing:
        raise Refusal("params.yaml has no evaluation, so there are no features to select by: add one for a run")
    block = values["evaluations"][seeing[0]]
    seed = values["runs"][block["run"]]["seeds"][0]
    lines = BLOCK.format(name=name, evaluation=seeing[0], dataset=block["dataset"], seed=seed)
    text, found = EMPTY.subn(lambda _: f"selections: # what to label next\n{lines}".rstrip(), file.read_text())
    if len(seeing) > 1 or not found:
        which = f"the encoder that should look, one of {', '.join(seeing)}" if len(seeing) > 1 else "these lines"
        raise Refusal(f"params.yaml has no selection: write one with {which}\nselections:\n{lines}".rstrip())
    write_atomically(file, text.encode())
    return name


def _seeing(values: dict[str, Any]) -> list[str]:
    """The evaluations of encoders that learned here without labels, or of all if none did."""
    evaluations, runs = values["evaluations"], values["runs"]
    learned = [name for name, run in runs.items() if run["training"]["epochs"] and not saw_labels(runs, name)]
    return [name for name, block in evaluations.items() if block["run"] in learned] or list(evaluations)


def set_images(name: str, images: int, root: Path) -> None:
    """Write `selections.<name>.images` into params.yaml; every other letter stays.

    Refusal, with nothing written, if anything else would change too, or this number not.
    """
    from ruamel.yaml import YAML

    file = root / "params.yaml"
    text, values = file.read_text(), params.read(file)
    if values["selections"][name].get("images") == images:
        return
    values["selections"][name]["images"] = images
    block = YAML().load(text)["selections"][name]
    if "images" in block.lc.data:
        line, column = block.lc.value("images")
        lines = text.splitlines(keepends=True)
        lines[line] = lines[line][:column] + re.sub(r"^\d+", str(images), lines[line][column:])
        text = "".join(lines)
    if json.loads(json.dumps(YAML(typ="safe").load(text))) != values:  # as `params.read`: anchors become copies
        raise Refusal(
            f"params.yaml: selections.{name}.images is no plain number of its own (an anchor, an alias, a merge), so "
            f"it cannot be changed for {name} alone: write `images: {images}` into the block {name} yourself"
        )
    write_atomically(file, text.encode())
