"""The `contrail` command. Each verb imports what it needs when it is called, so that the rest starts at once."""

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import paths, repro
from pipeline.errors import ParamsError, Refusal

REASONS = 3  # that a line gives
ACTIONS = {"nothing": "up to date", "restore": "from cache", "run": "run"}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From images to a registered, reproducible encoder.",
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Images = Annotated[list[str] | None, typer.Option("--image", help="A file, or the sha256 or id of an image.")]
Groups = Annotated[list[str] | None, typer.Option("--group", help="All images of a group, such as a patient.")]
InDataset = Annotated[str | None, typer.Option("--dataset", help="Only the ids and groups of this data set.")]
Targets = Annotated[list[str] | None, typer.Argument(help="Stages, such as pretrain@simclr or pretrain. Default: all.")]


def main() -> None:
    """Run the command line; an expected error is one sentence and exit code 1."""
    repro.settle({})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # reaches every `finally`
    here = Path.cwd()
    try:
        os.chdir(paths.root())
        app(obj=here)
    except Refusal as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


@app.command()
def check() -> None:
    """Check the whole of params.yaml, and say what it amounts to."""
    from pipeline import graph, params

    params.check(params.read())
    print(f"params.yaml is fine: {len(graph.read())} stages")
    print("".join(f"but a run would fail, {words}\n" for words in _obstacles()), end="")


@app.command()
def plan(as_json: AsJson = False) -> None:
    """Say what the next run would do with each stage, and why."""
    from pipeline import graph

    steps = graph.plan()
    if as_json:
        print(json.dumps([asdict(step) for step in steps], indent=1))
        return
    _table([(step.stage, ACTIONS[step.action], _short(step.reasons)) for step in steps])
    counts = Counter((step.action, step.certain) for step in steps)
    more = f", {perhaps} more perhaps" if (perhaps := counts["run", False]) else ""
    restored = counts["restore", True]
    print(f"{counts['run', True]} of {len(steps)} stages would run{more}, {restored} would come from the cache")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Say what changed in the images, and which stages are not up to date."""
    from pipeline import graph
    from pipeline.changes import changes, words

    found = graph.status()
    changed = changes(found, paths.root())
    if as_json:
        data = {name: asdict(change) for name, change in changed.items()}
        print(json.dumps({"data": data, "stages": found}, indent=1))
        return
    print(
        "\n".join(line for name, change in changed.items() for line in words(name, change)), end="\n" if changed else ""
    )
    _table([(stage, _short(reasons)) for stage, reasons in found.items()])
    some = f"{len(found)} stage{' is' if len(found) == 1 else 's are'} not up to date"
    print(some if found else "everything is up to date")


@app.command()
def run(
    targets: Targets = None,
    force: Annotated[bool, typer.Option("--force", help="Run the named stages even if nothing changed.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Every stage on a sliver of the data, in a copy.")] = False,
) -> None:
    """Run the study as a Prefect flow: independent stages side by side, each seen in the Prefect pages."""
    if quick:
        if targets or force:
            raise Refusal("--quick runs every stage, once, in a copy: leave out the stages and --force")
        from pipeline.quick import quick as quick_run

        sys.exit(0 if _interruptible(lambda: quick_run(paths.root(), print)) else 1)
    from pipeline import graph

    graph.select(graph.read(), targets or [])  # a wrong name is refused before a server is started
    if not targets and (found := _obstacles()):
        raise Refusal("\n".join(found))
    from pipeline import flow

    code = _interruptible(lambda: flow.run(targets or [], force=force))
    if not code and not targets:
        from pipeline import where

        print("\n".join(where.results(paths.root())))
    sys.exit(code)


def _obstacles() -> list[str]:
    """Why a run of all stages would fail in the end, whatever is stale."""
    from pipeline import doctor

    findings = [found for look in (doctor.missing, doctor.strangers, doctor.forgetting) for found in look(paths.root())]
    return [f"{finding.what}: {finding.words}" for finding in findings if finding.state == "fault"]


@app.command()
def use(
    context: typer.Context,
    recipe: str,
    path: Annotated[
        Path | None, typer.Option(help="With the recipe folder: look at this folder, and fit the study.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the study. Default: that of the folder.")] = None,
    labels: Annotated[Path | None, typer.Option(help="The table of labels in the folder, CSV or parquet.")] = None,
    group: Annotated[
        str | None, typer.Option(help="Its column, such as patient_id, whose images share a split.")
    ] = None,
) -> None:
    """Make recipes/RECIPE the current study; the current one is put beside it."""
    from pipeline import params, recipes

    if path is not None and recipe == "folder":
        from pipeline.drafting.adopt import adopt

        folder = context.obj / path
        table = labels and next((place for place in (folder / labels, context.obj / labels) if place.is_file()), labels)
        print("\n".join(adopt(folder, name=name, labels=table, group=group, root=paths.root())))
        return
    if given := [f"--{key}" for key in ("path", "name", "labels", "group") if context.params[key]]:
        raise Refusal(f"{given[0]} belongs to `contrail use folder --path DIR`, which makes a study of your own images")
    try:
        params.check(params.read(recipes.find(recipe, paths.root()) / "params.yaml"))
    except ParamsError as error:
        raise Refusal(f"recipes/{recipe} is broken, so nothing was changed: {error}") from None
    stale = recipes.use(recipe, paths.root())
    print(f"{recipe} is the current study.")
    print("".join(f"{words}\n" for words in _obstacles()), end="")
    if stale:
        print(f"{len(stale)} stages are not up to date, `contrail plan` says why. Next: `dvc repro` or `contrail run`.")
    else:
        print("Everything is up to date.")


@app.command()
def fetch(
    what: Annotated[str, typer.Argument(help="A data set of params.yaml, its source, or models:/<name>@<alias>.")],
) -> None:
    """Download a data set of params.yaml to its path, or a registered encoder's weights to start from."""
    from pipeline import params, plugins, registry
    from pipeline.sentences import hinted

    if what.startswith("models:"):
        print(f"for a run in params.yaml:\n{registry.fetch(what)}")
        return
    datasets = params.read()["datasets"]
    named = [what] if what in datasets else [name for name in datasets if datasets[name]["source"]["name"] == what]
    if len(named) != 1:
        several = f"{len(named)} data sets have the source {what!r}, say which: {', '.join(named)}"
        none = f"params.yaml has no data set {what!r}{hinted(what, datasets)} It has {', '.join(datasets)}"
        raise Refusal(several if named else none)
    source = datasets[named[0]]["source"]
    try:
        plugins.fetcher(source["name"])(source["path"])
    except OSError as error:
        raise Refusal(f"{named[0]} could not be downloaded: {error}") from error
    print(f"{named[0]} is in {source['path']}")


@app.command()
def select(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A selection of params.yaml. Default: the only one.")] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="How many images, from now on.")] = None,
    out: Annotated[Path, typer.Option(help="The list to write, and beside it the page.")] = Path("to_label.csv"),
) -> None:
    """Choose the images to label next: a list to fill in, and a page that shows them."""
    from pipeline.labeling import to_label

    print("\n".join(_interruptible(lambda: to_label.select(name, n, context.obj / out, paths.root()))))


@app.command()
def label(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The list that was filled in.")],
    new_class: Annotated[bool, typer.Option("--new-class", help="Take labels that no image has yet.")] = False,
    dataset: Annotated[str | None, typer.Option(help="Where several data sets have these images.")] = None,
) -> None:
    """Merge a filled list into the table of labels of its data set."""
    from pipeline.labeling import answers

    print("\n".join(answers.label(context.obj / file, dataset, new_class, paths.root())))


@app.command()
def sync() -> None:
    """Bring the tracking store up to date with dvc.lock: a run for every stage, also those from the cache."""
    from pipeline import graph, params, tracking

    done = tracking.sync(paths.root(), params.read()["study"], graph.lock_entries())
    print("\n".join(done) or "nothing to do")


@app.command()
def register(
    name: Annotated[str | None, typer.Argument(help="An evaluation. Default: the best without labels.")] = None,
) -> None:
    """Register an evaluated encoder, as @candidate."""
    from pipeline import params, registry

    model, version = f"{params.read()['study']}-encoder", registry.register(name)
    print(f"version {version} is registered: models:/{model}/{version}")


@app.command()
def promote(version: Annotated[int | None, typer.Argument(help="Default: the @candidate.")] = None) -> None:
    """Make a registered version @champion, if it passes every gate."""
    from pipeline import registry

    print(f"version {registry.promote(version)} is the champion")


@app.command()
def rollback() -> None:
    """Make the previous champion the champion again."""
    from pipeline import registry

    print(f"version {registry.rollback()} is the champion again")


@app.command()
def trace(
    context: typer.Context,
    image: Images = None,
    group: Groups = None,
    dataset: InDataset = None,
    as_json: AsJson = False,
) -> None:
    """Say which data sets hold an image, and which runs and registered versions saw it."""
    from pipeline import params, store
    from pipeline.trail import sources, traced
    from pipeline.trail.forget import reached
    from pipeline.trail.seen import Trail

    held = [sources.Source(name, block) for name, block in params.read()["datasets"].items()]
    wanted = sources.asked(held, _some(context, image, group), group or [], dataset)
    with store.opened(paths.root()) as objects, reached(paths.root()) as mlflow:
        found = traced.facts(Trail(objects, wanted), mlflow and mlflow.MlflowClient())
    print(json.dumps(found, indent=1) if as_json else "\n".join(traced.words(found)))


@app.command()
def forget(
    context: typer.Context,
    image: Images = None,
    group: Groups = None,
    dataset: InDataset = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove images from source, cache and remotes, and note it on the registered versions that saw them."""
    from pipeline.trail import forget as forgetting

    def agreed(amounts: str) -> bool:
        print("to be removed for good:", *amounts.splitlines(), sep="\n  ")
        return yes or typer.confirm("go on?")

    named = _some(context, image, group)
    print("\n".join(_interruptible(lambda: list(forgetting.forget(paths.root(), named, group or [], dataset, agreed)))))


@app.command()
def doctor() -> None:
    """Look for what would break or mislead on this machine and in this working copy."""
    from pipeline import doctor as physician

    findings = list(physician.examine(paths.root()))
    _table([(finding.what, finding.state, finding.words) for finding in findings])
    sys.exit(1 if any(finding.state == "fault" for finding in findings) else 0)


@app.command()
def deploy(
    cron: Annotated[str | None, typer.Option(help='A schedule, such as "0 3 * * *". Default: none.')] = None,
) -> None:
    """Wait for a Prefect server to start the study: from its page, its API or on a schedule."""
    from pipeline import deploy as deployment

    with suppress(KeyboardInterrupt):
        deployment.serve(cron)


@app.command()
def ui() -> None:
    """Serve the pages of Prefect and MLflow to this machine."""
    from pipeline import deploy as deployment

    with suppress(KeyboardInterrupt):
        deployment.pages(paths.root())


@app.command()
def where() -> None:
    """Say what the results are, where the report is, and which outputs are the same bytes as the published ones."""
    from pipeline import where

    print("\n".join(where.words(paths.root())))


def _interruptible(work: Callable[[], Any]) -> Any:
    """The result of `work`; Ctrl-C ends with a sentence instead of a traceback."""
    try:
        return work()
    except KeyboardInterrupt:
        print("stopped: what was finished is kept, the same command goes on from there", file=sys.stderr)
        sys.exit(130)


def _some(context: typer.Context, images: list[str] | None, groups: list[str] | None) -> list[str]:
    """The images, files by their whole path; none if only groups are named."""
    if not images and not groups:
        raise Refusal("say which: --image with a file, a sha256 or an id, or --group")
    files = {image: context.obj / image for image in images or []}
    return [str(file) if file.is_file() else image for image, file in files.items()]


def _short(reasons: list[str]) -> str:
    """The first few; --json has them all."""
    more = [f"and {len(reasons) - REASONS} more"] if len(reasons) > REASONS else []
    return "; ".join(reasons[:REASONS] + more)


def _table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
