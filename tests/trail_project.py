"""A study whose stages leave the files of the real ones in an instant, for the tests of versions, trace and forget.

Forty 8×8 images of ten patients, in data/raw/scans with a table; the data set `small` keeps pixels, `large` files in
shards. `simclr` learns from the images of `small`, `supervised` from the labels of `large`, `after` starts from the
weights of `simclr`.
"""

import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from toy_project import commit, run

from pipeline import params, repro
from pipeline.trail import forget, sources
from pipeline.trail.seen import Wanted

WORK = (Path(__file__).parent / "trail_stages.py").read_text()
DAG = """\
stages:
  prepare:
    foreach: ${datasets}
    do:
      cmd: python -m stages.prepare ${key}
      params: ["datasets.${key}"]
      deps: [stages/prepare.py, "${item.source.path}"]
      outs:
        - data/datasets/${key}/images
        - data/datasets/${key}/labels.parquet
        - data/datasets/${key}/splits.parquet
        - data/datasets/${key}/manifest.parquet
        - data/datasets/${key}/quarantine.csv
        - data/datasets/${key}/pretrain/images.parquet
        - data/datasets/${key}/pretrain/labels.parquet
        - data/datasets/${key}/budgets
        - data/receipts/prepare-${key}.json
  pretrain:
    foreach: ${runs}
    do:
      cmd: python -m stages.pretrain ${key}
      params: ["runs.${key}"]
      deps:
        - stages/pretrain.py
        - ${item.init}
        - data/datasets/${item.dataset}/images
        - data/datasets/${item.dataset}/pretrain/${item.sees}.parquet
      outs: ["data/encoders/${key}", "data/receipts/pretrain-${key}.json"]
  embed:
    foreach: ${evaluations}
    do:
      cmd: python -m stages.embed ${key}
      params: ["evaluations.${key}.run", "evaluations.${key}.dataset", private]
      deps:
        - stages/embed.py
        - data/encoders/${item.run}
        - data/datasets/${item.dataset}/images
        - data/datasets/${item.dataset}/splits.parquet
      outs: ["data/features/${key}", "data/exports/${key}", "data/receipts/embed-${key}.json"]
  evaluate:
    foreach: ${evaluations}
    do:
      cmd: python -m stages.evaluate ${key}
      params: ["evaluations.${key}.dataset", "evaluations.${key}.probes"]
      deps:
        - stages/evaluate.py
        - data/features/${key}
        - data/datasets/${item.dataset}/labels.parquet
        - data/datasets/${item.dataset}/splits.parquet
      outs: ["data/predictions/${key}.parquet", "data/receipts/evaluate-${key}.json"]
      metrics: ["data/scores/${key}.json": {cache: false}]
  finetune:
    foreach: ${finetunes}
    do:
      cmd: python -m stages.finetune ${key}
      params: ["finetunes.${key}"]
      deps:
        - stages/finetune.py
        - data/encoders/${item.run}
        - data/datasets/${item.dataset}/images
        - data/datasets/${item.dataset}/budgets
        - data/datasets/${item.dataset}/pretrain/images.parquet
        - ${item.teacher}
      outs: ["data/classifiers/${key}", "data/receipts/finetune-${key}.json"]
      metrics: ["data/finetunes/${key}.json": {cache: false}]
  report:
    cmd: python -m stages.report
    params: [datasets]
    deps: [stages/report.py, data/datasets, data/features]
    outs: [data/report/index.html]
"""
SCANS = Path("data/raw/scans")
SOURCE = {"name": "folder", "path": str(SCANS), "labels": "labels.csv", "group": "patient", "split": None}
RUN = {"dataset": "small", "sees": "images", "init": "stages/work.py", "training": {"epochs": 1}, "seeds": [0]}
EVALUATION = {"run": "simclr", "dataset": "small", "probes": {"knn": {"k": 5}}}
FINETUNE = {
    "run": "simclr",
    "dataset": "small",
    "budgets": ["few"],
    "objective": {"name": "supervised"},
    "teacher": "stages/work.py",
}
PARAMS = {
    "study": "scans",
    "private": False,
    "datasets": {
        "small": {"source": SOURCE | {"store": {"shape": [8, 8], "fit": "crop"}}},
        "large": {"source": SOURCE | {"store": {"short_side": 8, "quality": 95}}},
    },
    "runs": {
        "simclr": RUN,
        "supervised": RUN | {"dataset": "large", "sees": "labels"},
        "random": RUN | {"training": {"epochs": 0}},
        "after": RUN | {"init": "data/encoders/simclr/seed-0/encoder.safetensors", "training": {"epochs": 0}},
    },
    "evaluations": {"simclr": EVALUATION, "supervised": EVALUATION | {"run": "supervised", "dataset": "large"}},
    "finetunes": {
        "simclr": FINETUNE,
        "distilled": FINETUNE
        | {"objective": {"name": "distill", "unlabeled": 4}, "teacher": "data/classifiers/simclr"},
    },
}
CONFIG = """\
[core]
    analytics = false
    check_update = false
    remote = shelf
[cache]
    type = hardlink,copy
['remote "shelf"']
    url = ../../shelf
"""
IGNORED = ".scratch\n.mlflow\n__pycache__\ndata/raw\n" + "".join(
    f"data/{name}\n"
    for name in ("classifiers", "datasets", "encoders", "exports", "features", "predictions", "receipts", "report")
)

TRAIN = 13  # of patient 3: train, granted by the budget's seed 1
TEST = 1  # of patient 0: in test, and among the images that an export shows itself
LATE = 99  # came after the first commit


def image(number: int) -> np.ndarray:
    """The pixels of one of the images, uint8 (8, 8, 3), unlike all others."""
    return np.random.default_rng(1000 + number).integers(0, 256, (8, 8, 3), np.uint8)


def digest(pixels: np.ndarray) -> str:
    """The sha256 by which an image is known: of shape and pixels."""
    return hashlib.sha256(np.array(pixels.shape, "<i8").tobytes() + pixels.tobytes()).hexdigest()


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image(number)).save(stream, "PNG")
    return stream.getvalue()


def name(number: int) -> str:
    """Its id: four images a patient."""
    return f"P{number // 4}/scan-{number:04}.png"


def make(root: Path) -> Path:
    """The project in git, not run yet; its remote is the folder `shelf` beside it."""
    for folder in (".dvc", "stages", str(SCANS)):
        (root / folder).mkdir(parents=True)
    (root / ".dvc" / "config").write_text(CONFIG)
    (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (root / ".gitignore").write_text(IGNORED)
    (root / "stages" / "__init__.py").write_text("")
    (root / "stages" / "work.py").write_text(WORK)
    for stage in ("prepare", "pretrain", "embed", "evaluate", "finetune", "report"):
        (root / "stages" / f"{stage}.py").write_text(f"from stages import work\n\nwork.main(work.{stage})\n")
    (root / "dvc.yaml").write_text(DAG)
    (root / "params.yaml").write_text(json.dumps(PARAMS, indent=1))
    for number in range(40):
        file = root / SCANS / name(number)
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(image(number)).save(file)
    with (root / SCANS / "labels.csv").open("w", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(("file", "label", "patient"))
        writer.writerows((name(number), number % 2, f"P{number // 4}") for number in range(40))
    run("git", "init", "--quiet", "--initial-branch", "main", cwd=root)
    commit(root)
    return root


def work(root: Path) -> None:
    """Run and commit all stages: in one process, recorded by DVC as if each had been run by it."""
    subprocess.run([sys.executable, "-m", "stages.work"], cwd=root, check=True, env=repro.environment(PYTHONPATH=""))
    dvc(root, "commit", "--quiet", "--force")
    commit(root)


def dvc(root: Path, *command: str) -> str:
    """What DVC prints."""
    return run("env", f"PATH={repro.environment()['PATH']}", *repro.dvc(*command), cwd=root)


def finished(root: Path) -> Path:
    """The project, run and committed; then one more image in `small`, prepared, committed and pushed."""
    make(root)
    work(root)
    dvc(root, "push", "--quiet")
    Image.fromarray(image(LATE)).save(root / SCANS / "P9" / "scan-0099.png")
    with (root / SCANS / "labels.csv").open("a") as lines:
        lines.write("P9/scan-0099.png,0,P9\n")
    dvc(root, "repro", "--quiet", "prepare@small")
    commit(root)
    dvc(root, "push", "--quiet", "--run-cache")
    return root


def copied(made: Path, folder: Path) -> Path:
    """A copy in `folder` that a test may change; its remote is the folder `shelf` beside it."""
    shutil.copytree(made.parent, folder, symlinks=True)
    return folder / "project"


def entered(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project as current directory, without a tracking store."""
    monkeypatch.setenv("CONTRAIL_TRACKING", "off")
    monkeypatch.chdir(project)
    return project


def asked(*images: str, groups: tuple[str, ...] = ()) -> Wanted:
    """What `trace` and `forget` look for, of the project in the current directory."""
    held = [sources.Source(item, block) for item, block in params.read()["datasets"].items()]
    return sources.asked(held, images, groups, None)


def forgotten(root: Path, *images: str, groups: tuple[str, ...] = (), dataset: str | None = None) -> list[str]:
    """What `forget` says of a run without a question."""
    return list(forget.forget(root, list(images), list(groups), dataset, lambda amounts: True))


def holders(folder: Path, numbers: list[int]) -> list[str]:
    """The files below a folder that hold an image's pixels, its file's content, its id or its features."""
    parts = [image(number).tobytes() for number in numbers] + [png(number) for number in numbers]
    parts += [image(number).reshape(-1)[::5].astype(np.float32).tobytes() for number in numbers]
    ids = {name(number) for number in numbers} | {digest(image(number)) for number in numbers}
    return [str(path) for path in sorted(folder.rglob("*")) if path.is_file() and _holds(path.read_bytes(), parts, ids)]


def _holds(content: bytes, parts: list[bytes], ids: set[str]) -> bool:
    if content.startswith(b"PAR1"):
        return any(not ids.isdisjoint(column.to_pylist()) for column in pq.read_table(io.BytesIO(content)).columns)
    return any(part in content for part in parts) or any(text.encode() in content for text in ids)
