"""The whole DAG on a sliver of the data, in a copy: a minute spent before a study of three days, to see it through."""

import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import graph, params, paths, repro, sliver
from pipeline.doctor import inputs
from pipeline.graph import Node
from pipeline.hardware import side_by_side
from pipeline.recipes import git
from pipeline.repro import Result, Runner

IMAGES = 200  # of each data set, or all of a smaller one
CHOSEN = 2  # labels of a class that the probe `few_labels` chooses a penalty by
PROTOTYPES = 20  # at most, as they may not be more than the images
SELECTED = 20  # images of a selection, at most
TRAINING = {"epochs": 1, "steps": 1, "batch_size": 32, "accumulate": 1}  # at most
CONFIG = "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n[cache]\n    dir = cache\n"


def quick(root: Path, say: Callable[[str], None]) -> bool:
    """Run every stage of the study, shrunk, in .scratch/quick/<time>; True if all succeeded.

    Nothing outside the copy changes. The copy is removed, unless a stage failed: then `say` tells where it is.
    """
    began = time.monotonic()
    copy = root / paths.SCRATCH / "quick" / f"{datetime.now():%Y%m%d-%H%M%S}"
    runner = Runner(copy, repro.environment(CONTRAIL_TRACKING="off", CONTRAIL_LOCKS=str(copy)))  # waits for nobody
    try:
        _copy(root, copy)
        results = _run(copy, runner, say)
    except BaseException:
        shutil.rmtree(copy, ignore_errors=True)
        raise
    failed = [result for result in results if not result.outcome.good]
    say(f"{len(results) - len(failed)} of {len(results)} stages ran in {time.monotonic() - began:.0f} s")
    if failed:
        say(f"the copy is kept: {copy}; what each stage printed is in {copy / 'logs'}")
    else:
        shutil.rmtree(copy, ignore_errors=True)
    return not failed


def shrink(values: dict[str, Any]) -> dict[str, Any]:
    """A study that runs in a minute: few images, one seed, one epoch; everything else as it is."""
    small = _small(values)
    for dataset in small["datasets"].values():
        dataset["subset"] = min(dataset.get("subset") or IMAGES, IMAGES)
        for budget in dataset["budgets"].values():
            if "file" in budget["select"]:  # it names images that a sliver lacks
                budget["select"] = {"name": "per_class", "images": 1}
    for evaluation in small.get("evaluations", {}).values():
        for probe in evaluation["probes"].values():
            if budget := small["datasets"][evaluation["dataset"]]["budgets"].get(probe.get("budget")):
                budget["select"] = {"name": "per_class", "images": CHOSEN}
    for run in small["runs"].values():
        run["training"]["batch_size"] -= run["training"]["batch_size"] % values["hardware"]["ranks"]
        for name, other in small["runs"].items():  # weights of a seed that is left out
            trained = f"{paths.encoder(name)}/seed-"
            run["init"] = re.sub(rf"^{trained}[0-9]+", f"{trained}{other['seeds'][0]}", run["init"])
        run["method"] |= _fitting(run["method"], run["training"]["batch_size"])
    for block in small["selections"].values():
        block["seed"] = small["runs"][small["evaluations"][block["evaluation"]]["run"]]["seeds"][0]
        block["images"] = min(block["images"], SELECTED)
    return small


def _fitting(method: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """The queue of a method in whole batches, and few prototypes."""
    fitting: dict[str, Any] = {}
    if queue := method.get("queue"):
        fitting["queue"] = max(batch_size, queue - queue % batch_size)
    if count := method.get("prototypes"):
        few = [min(k, PROTOTYPES) for k in (count if isinstance(count, list) else [count])]
        fitting["prototypes"] = few if isinstance(count, list) else few[0]
    return fitting


def _small(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_small(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    shrunk = {key: _small(value) for key, value in tree.items()}
    if "seeds" in shrunk:
        shrunk["seeds"] = shrunk["seeds"][:1]
    if "training" in shrunk:
        training = shrunk["training"]
        training |= {key: min(training[key], most) for key, most in TRAINING.items() if key in training}
    return shrunk


def _copy(root: Path, copy: Path) -> None:
    """The files that git has or would take, apart from results and locks; own DVC cache; what stages read as links."""
    from ruamel.yaml import YAML

    for name in git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        source, target = root / name, copy / name
        kept = not name.startswith(("data/", "recipes/", ".dvc/", "dvc.lock")) or name.endswith("/.gitkeep")
        if kept and source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    (copy / ".dvc").mkdir()
    (copy / ".dvc" / "config").write_text(CONFIG)
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.dump(_slivers(shrink(params.read(root / "params.yaml")), copy), copy / "params.yaml")
    if (root / paths.RAW).exists():
        _link(root / paths.RAW, copy / paths.RAW)
    for path in inputs(graph.read(copy)):
        if (root / path).exists() and not (copy / path).exists():  # weights that git ignores
            _link(root / path, copy / path)


def _slivers(study: dict[str, Any], copy: Path) -> dict[str, Any]:
    """The study with images of few classes in each data set, by a source that only the copy has."""
    plug_in = copy / "stages" / "datasets" / "sliver.py"
    plug_in.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(sliver.__file__, plug_in)
    for dataset in study["datasets"].values():
        if source := dataset.get("source"):
            dataset["source"] = {"name": "sliver", "path": source["path"], "of": source, "images": dataset["subset"]}
    return study


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source.resolve())


def _run(copy: Path, runner: Runner, say: Callable[[str], None]) -> list[Result]:
    """Stages side by side, what each prints in a file of its own."""
    (copy / "logs").mkdir()
    hardware = params.read(copy / "params.yaml")["hardware"]
    places = side_by_side(hardware["threads"] * hardware["ranks"])
    with ThreadPoolExecutor() as pool:

        def start(node: Node, cause: str | None) -> Future[Result]:
            return pool.submit(_stage, node.name, cause, copy, runner, say)

        try:
            return repro.schedule(graph.read(copy), places, start, _first_done)
        except BaseException:
            runner.stop()  # or the pool would wait for its stages
            raise


def _stage(name: str, cause: str | None, copy: Path, runner: Runner, say: Callable[[str], None]) -> Result:
    with (copy / "logs" / f"{name}.log").open("w") as log:
        result = repro.skipped(name, cause) if cause else runner.run(name, force=False, say=partial(print, file=log))
    say(f"{result.outcome:<10} {result.seconds:6.1f} s  {name}  {result.message}".rstrip())
    return result


def _first_done(futures: list[Future[Result]]) -> tuple[Future[Result], Result]:
    future = wait(futures, return_when=FIRST_COMPLETED).done.pop()
    return future, future.result()
