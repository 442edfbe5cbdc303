"""What a block of params.yaml names elsewhere is there, and goes with it: all that one block alone cannot show."""

import re
from pathlib import Path
from typing import Any, cast

from pipeline import paths, plugins
from pipeline.labeling.selections import check_lists, check_selection
from pipeline.lineage import saw_labels
from pipeline.params import SECTIONS
from pipeline.sentences import BlockError, Problem, hinted, unlike
from pipeline.teachers import check_finetune

WEIGHTS = (".safetensors", ".pth", ".pt")  # files that a run may start from


def check(params: dict[str, Any]) -> None:
    """ParamsError at the key that is wrong; the blocks themselves are checked already."""
    for section in SECTIONS[1:]:
        for name, block in params[section].items():
            where = f"{section}.{name}"
            for key, target in (("dataset", "datasets"), ("run", "runs"), ("evaluation", "evaluations")):
                if key in block:
                    _exists(f"{where}.{key}", block[key], params[target])
            if block.get("head", "h") != "h":
                _check_head(f"{where}.head", block, params["runs"][block["run"]]["method"].get("projector"))
            if section == "runs":
                _check_learner(where, block)
                _check_start(where, block)
                _check_weights(f"{where}.init", block["init"], params["runs"])
                _check_batch(f"{where}.training.batch_size", block["training"], params["hardware"]["ranks"])
            for budget in block.get("budgets", []):
                _exists(f"{where}.budgets", budget, params["datasets"][block["dataset"]]["budgets"])
            for probe, values in block.get("probes", {}).items():
                _check_probe(f"{where}.probes.{probe}", probe, values.get("name", probe))
                if values.get("name", probe) == "layers" and not block["taps"]:
                    text = f"the probe {probe} judges what every layer gives, so this must be true"
                    raise BlockError(Problem((), text)).at(f"{where}.taps")
                if "budget" in values:
                    budgets = params["datasets"][block["dataset"]]["budgets"]
                    _exists(f"{where}.probes.{probe}.budget", values["budget"], budgets)
    for name in params["finetunes"]:
        _check_row(name, params)
        _check_labels(f"finetunes.{name}.run", params["finetunes"][name], params["runs"])
        check_finetune(name, params)
    for name in params["selections"]:
        check_selection(name, params)
    for name in params["datasets"]:
        check_lists(name, params)


def _check_head(where: str, finetune: dict[str, Any], projector: dict[str, Any] | None) -> None:
    """The projector layers that fine-tuning keeps exist."""
    run, head = finetune["run"], finetune["head"]
    if projector is None:
        text = f"the run {run!r} has no projector, so the head can only be h, not {head}"
        raise BlockError(Problem((), text)).at(where)
    if projector["layers"] < int(head.rpartition(".")[2]):
        text = f"the projector of the run {run!r} has 1 layer, so the head can be h or projector.1, not {head}"
        raise BlockError(Problem((), text)).at(where)


def _check_learner(where: str, run: dict[str, Any]) -> None:
    """What the method of a run asks for: labels, or that nothing is trained."""
    method = run["method"]["name"]
    learner = cast("Any", plugins.load("methods", method))
    if learner.needs_labels and run["sees"] != "labels":
        text = f"the method {method} learns from labels, so this must be labels, not {run['sees']}"
        raise BlockError(Problem((), text)).at(f"{where}.sees")
    if not learner.trains and run["training"]["epochs"]:
        text = f"the method {method} is not trained, so this must be 0, not {run['training']['epochs']}"
        raise BlockError(Problem((), text)).at(f"{where}.training.epochs")


def _check_start(where: str, run: dict[str, Any]) -> None:
    """What a run starts from goes with its encoder and its method, and its images with its encoder."""
    encoder, method, init = run["encoder"], run["method"]["name"], run["init"]
    own, learner = f"stages/encoders/{encoder['name']}.py", cast("Any", plugins.load("methods", method))
    weights = f"a file of weights inside the repository ({', '.join(WEIGHTS)})"
    inside = not Path(init).is_absolute() and ".." not in Path(init).parts
    if init != own and not (init.endswith(WEIGHTS) and inside):
        text = f"must be {own}, for weights as that file initializes them, or {weights}, not {init}"
        raise BlockError(Problem((), text)).at(f"{where}.init")
    if learner.starts == "fresh" and init != own:
        text = f"the method {method} shows the untrained encoder, so init must be {own}; `imported` is for weights"
        raise BlockError(Problem((), text)).at(f"{where}.init")
    if learner.starts == "from weights" and init == own:
        text = f"the method {method} shows weights from elsewhere, so init must be {weights}, not {init}"
        raise BlockError(Problem((), text)).at(f"{where}.init")
    if init != own and not run["training"]["epochs"] and len(run["seeds"]) > 1:
        text = f"all seeds would be one encoder, as they start from {init} and are not trained: write seeds: [0]"
        raise BlockError(Problem((), text)).at(f"{where}.seeds")
    if encoder.get("side", side := run["input"]["side"]) != side:
        text = f"the encoder takes images of side {encoder['side']}, so input.side must be that, not {side}"
        raise BlockError(Problem((), text)).at(f"{where}.input.side")


def _check_weights(where: str, init: str, runs: dict[str, Any]) -> None:
    """The run and the seed whose encoder a run starts from exist."""
    weights = re.fullmatch(rf"{paths.encoder('([^/]+)')}/seed-([^/]+)/encoder\.safetensors", Path(init).as_posix())
    if not weights:
        return
    run, seed = weights.groups()
    if run not in runs:
        text = f"there is no run {run!r}{hinted(run, runs)} The runs are {', '.join(runs)}"
        raise BlockError(Problem((), text)).at(where)
    if seed not in (seeds := [str(seed) for seed in runs[run]["seeds"]]):
        text = f"the run {run!r} has no seed {seed}, only {', '.join(seeds)}"
        raise BlockError(Problem((), text)).at(where)


def _check_batch(where: str, training: dict[str, Any], ranks: int) -> None:
    """Every rank gets equally many images of every piece of a batch, and more than one."""
    size, pieces = training["batch_size"], training["accumulate"]
    parts = ranks * pieces
    if training["epochs"] and (size % parts or size < 2 * parts):
        text = (
            f"{size} images cannot be shared among {ranks} ranks in {pieces} piece(s) (hardware.ranks, accumulate), "
            f"two or more for each; the nearest that can are {max(2, round(size / parts)) * parts}"
        )
        raise BlockError(Problem((), text)).at(where)


def _check_row(name: str, params: dict[str, Any]) -> None:
    """An evaluation and a finetune of one name are one row of the report: of one run, on one data set."""
    if name not in params["evaluations"]:
        return
    for key in ("run", "dataset"):
        own, other = (params[section][name][key] for section in ("finetunes", "evaluations"))
        if own != other:
            text = f"evaluations.{name} has {other}, and both are one row of the report: write that, or rename one"
            raise BlockError(Problem((), text)).at(f"finetunes.{name}.{key}")


def _check_labels(where: str, finetune: dict[str, Any], runs: dict[str, Any]) -> None:
    """What is fine-tuned on few labels has not seen all of them: neither its run nor one that it starts from."""
    run, dataset = finetune["run"], finetune["dataset"]
    if saw_labels(runs, run, dataset):
        text = (
            f"the encoder of {run!r} has seen every label of {dataset} in pretraining, so the budgets would say too "
            f"little: name a run that sees images, and starts from none that sees labels"
        )
        raise BlockError(Problem((), text)).at(where)


def _check_probe(where: str, key: str, name: str) -> None:
    """A key is the name that the report gives the scores: where it is that of a probe, it is this probe."""
    if key != name and key in plugins.names("probes"):
        text = f"the scores would be called {key} and be those of {name}: take another key, such as {name}"
        raise BlockError(Problem((), text)).at(where)


def _exists(where: str, name: str, known: dict[str, Any]) -> None:
    if name not in known:
        text = unlike(name, known) if known else f"{name!r} does not exist, nor does any other: add its block"
        raise BlockError(Problem((), text)).at(where)
