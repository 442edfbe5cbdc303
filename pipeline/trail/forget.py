"""`contrail forget`: an image, or all images of a group, taken out of everything that this repository reaches.

    look   ── which files, which objects, which versions and runs ──▶ .scratch/forget.json
    source ── the files, and their rows in tables: from here on no stage can read them
    rest   ── .scratch, outputs in data/, cache, run-cache, remotes, the self-tests of registered versions
    notes  ── the tag `forgotten` on versions and runs that saw them; forget.json goes

A kill leaves forget.json: the same command goes on, with what that says and with what is found anew.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any
from unicodedata import normalize

from pipeline import params, paths, recipes, store, tracking
from pipeline.gates import FORGOTTEN
from pipeline.scratch import write_atomically
from pipeline.store import Store
from pipeline.trail import marks
from pipeline.trail.consent import ForgetError, Forgetting, Plan
from pipeline.trail.sources import Source, asked

JOURNAL = paths.SCRATCH / "forget.json"
TOOLS = (".venv/*", ".dvc/cache/*", ".dvc/tmp/*", ".scratch/*", ".mlflow/*", ".prefect/*", ".*_cache/*", "*.pyc")
TEXTS = ("csv", "dvc", "html", "json", "jsonl", "md", "tsv", "txt", "xml")  # what in data/raw is no image


def forget(
    root: Path, images: list[str], groups: list[str], dataset: str | None, agreed: Callable[[str], bool]
) -> Iterator[str]:
    """Forget images, given by path, sha256 or id, and the images of groups; what was done, in words.

    agreed: is asked, with what would be removed, before anything is. ForgetError if there is no such image.
    """
    sources = [Source(name, block) for name, block in params.read(root / "params.yaml")["datasets"].items()]
    wanted = asked(sources, images, groups, dataset)
    before = begun(root)
    with store.opened(root) as objects, objects.quiet(), reached(root) as mlflow:
        looked = Forgetting(objects, sources, wanted)
        plan = before.merged(looked.plan(mlflow and mlflow.MlflowClient(), again=before != Plan()))
        if plan == Plan():
            raise ForgetError(f"no data set holds {' or '.join([*images, *groups])}, now or in any commit")
        if not agreed("\n".join(_amounts(plan, objects))):
            yield "nothing was removed"
            return
        carry_out(root, objects, sources, plan, mlflow)
    yield from _next(root, plan)


def begun(root: Path) -> Plan:
    """What an interrupted call had planned."""
    journal = root / JOURNAL
    return Plan(**json.loads(journal.read_text())) if journal.exists() else Plan()


def carry_out(root: Path, objects: Store, sources: list[Source], plan: Plan, mlflow: Any) -> None:
    """Remove what the plan says, in the order of the module docstring."""
    (root / JOURNAL).parent.mkdir(exist_ok=True)
    write_atomically(root / JOURNAL, json.dumps(asdict(plan)).encode())
    for source in sources:
        if plan.files.get(source.dataset):
            source.remove(plan.files[source.dataset])
    for path in (root / paths.SCRATCH).iterdir():
        if path.name not in (JOURNAL.name, "tracking"):
            recipes.remove(path)
    for out in plan.outs:
        recipes.remove(root / out)
    for place in objects.places:
        objects.remove_runs(plan.objects, place)
        objects.remove(plan.objects, place)
    if mlflow is not None:
        _note(mlflow, plan)
    (root / JOURNAL).unlink()


@contextmanager
def reached(root: Path) -> Iterator[Any]:
    """The mlflow module, pointed at the store; None where nothing was ever tracked or tracking is off."""
    if tracking.wanted() and tracking.exists(root):
        with tracking.reach(root) as mlflow:
            yield mlflow
    else:
        yield None


def _note(mlflow: Any, plan: Plan) -> None:
    client = mlflow.MlflowClient()
    for name in plan.shown:
        marks.blank(mlflow, *_parted(name))
    for name, words in plan.versions.items():
        before = client.get_model_version(*_parted(name)).tags.get(FORGOTTEN)
        client.set_model_version_tag(*_parted(name), FORGOTTEN, _added(before, words))
    for run, words in plan.runs.items():
        client.set_tag(run, FORGOTTEN, _added(client.get_run(run).data.tags.get(FORGOTTEN), words))


def _added(note: str | None, words: str) -> str:
    """A note that says the words too, once."""
    return "; ".join(dict.fromkeys([*(note.split("; ") if note else []), words]))


def _parted(name: str) -> tuple[str, str]:
    model, _, version = name.rpartition(" ")
    return model, version


def _amounts(plan: Plan, objects: Store) -> Iterator[str]:
    """What would be removed and noted."""
    yield f"{len(plan.images)} image(s), with all files of the same pixels, of other groups, too"
    for dataset, ids in plan.files.items():
        yield f"{len(ids)} file(s) of the data set {dataset}, {', '.join(ids[:3])}{', …' if ids[3:] else ''}"
    for place in objects.places:
        yield f"{len(objects.having(plan.objects, place))} object(s) in {place}"
    for name, words in plan.versions.items():
        yield f"{name} {words}"


def _next(root: Path, plan: Plan) -> Iterator[str]:
    """What was done, and what a person has to do now."""
    yield f"{len(plan.images)} image(s) are forgotten; `dvc repro` makes again what was removed along with them"
    saw = sorted(plan.versions)
    if saw:
        yield f"{', '.join(saw)} saw them: train, `contrail register` and `contrail promote`, then delete what saw them"
    named = _naming(root, plan.names)
    if named:
        yield f"these files may still name or show them: {', '.join(named)}"
    yield (
        "commit dvc.lock afterwards. Not reached: other clones and their caches, backups, former versions of a bucket, "
        "what git's history says in words"
    )


def _naming(root: Path, names: list[str]) -> list[str]:
    """The files of the working copy, ignored by git or not, in which one of the names occurs, as it is or in a page.

    Passed over: the tools' own files, what stages left in data/, which `carry_out` looks after, images in data/raw.
    """
    if not names:
        return []
    spelled = {normalize(form, name) for name in names for form in ("NFC", "NFD")}
    patterns = "\n".join(sorted(spelled | {escape(name) for name in spelled})).encode()
    ours = [".", *(f":(exclude){place}" for place in (*TOOLS, f"{paths.DATA}/*/*"))]
    raw = [f":(glob,icase){paths.RAW}/**/*.{suffix}" for suffix in TEXTS]
    command = ["git", "grep", "--no-index", "--null", "--files-with-matches", "--fixed-strings", "-f", "-", "--"]
    found = b""
    for where in (ours, raw):
        done = subprocess.run([*command, *where], cwd=root, input=patterns, capture_output=True, check=False)
        found += done.stdout
    return found.decode(errors="replace").split("\0")[:-1]
