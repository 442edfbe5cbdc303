"""Images and labels of a source → fixed arrays, splits and label budgets.

data/datasets/<name>/images/                                   the images, their ids and content hashes: see _storage
                     labels.parquet, splits.parquet            the labels that are known; train, validation, test
                     pretrain/images.parquet, pretrain/labels.parquet   what pretraining may see without and with labels
                     budgets/<budget>-<seed>.parquet, budgets/summary.json   which train images grant their label

    python -m stages.prepare digits
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from pipeline import paths
from pipeline.params import Block, Count, Name, Seeds
from pipeline.plugins import plugin
from pipeline.stage import Stage, run
from stages.datasets import _split
from stages.datasets._images import Images
from stages.datasets._storage import Encoded, Stored, stored
from stages.datasets._writing import write as write_images

Share = Annotated[float, Field(gt=0, lt=1)]


class Split(Block):
    """Shares of the images; test "own" keeps the source's test set, and validation is then a share of the rest."""

    validation: Share
    test: Share | Literal["own"]
    seed: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _some_are_left(self) -> "Split":
        if self.test != "own" and self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave no train images")
        return self


class Budget(Block):
    """A way to choose labels, and the seeds it is drawn with."""

    select: plugin("budgets")  # type: ignore[valid-type]  # the annotation is made for pydantic
    seeds: Seeds


def prepare(
    stage: Stage,
    *,
    source: plugin("datasets"),  # type: ignore[valid-type]  # the annotation is made for pydantic
    subset: Count | None,
    split: Split,
    pretrain_on: Annotated[list[Literal["train", "validation", "test"]], Field(min_length=1)],
    budgets: dict[Name, Budget],
) -> None:
    """Prepare one data set; `subset` keeps that many images, classes balanced, null keeps all."""
    images = source.make()
    if subset is not None:
        images = images.take(_split.subset(images, subset))
    folder = stage.out(paths.dataset(stage.item) / "images")
    folder.mkdir()
    index = write_images(folder, images, stage.check)
    hashes = index["sha256"]
    splits = _split.assign(hashes, images.split, validation=split.validation, test=split.test, seed=split.seed)
    _split.check(images, splits)
    chosen, summary = choose(images, splits, budgets)
    stage.log({name: float((splits == name).sum()) for name in _split.SPLITS})
    write(stage, {**tables(images, index, splits, pretrain_on), **chosen}, summary)
    print("\n".join(describe(images, stored(folder), hashes, splits, pretrain_on, summary)), flush=True)


def tables(
    images: Images, index: dict[str, Any], splits: np.ndarray, pretrain_on: Sequence[str]
) -> dict[str, pa.Table]:
    """File name → table, but for the budgets."""
    ids = np.array(images.ids)
    known = np.flatnonzero(images.labels >= 0)
    seen = np.flatnonzero(np.isin(splits, pretrain_on))
    train = known[splits[known] == "train"]
    names = [images.classes[label] for label in images.labels[known]]
    return {
        "images/index.parquet": pa.table({"id": ids, **index}),
        "labels.parquet": pa.table({"id": ids[known], "label": images.labels[known], "name": names}),
        "splits.parquet": pa.table({"id": ids, "split": splits}),
        "pretrain/images.parquet": pa.table({"id": ids[seen], "row": seen}),
        "pretrain/labels.parquet": pa.table({"id": ids[train], "row": train, "label": images.labels[train]}),
    }


def choose(
    images: Images, splits: np.ndarray, budgets: dict[str, Budget]
) -> tuple[dict[str, pa.Table], dict[str, dict[str, Any]]]:
    """The budgets: file name → table, and budget → seed → what it grants. Shares refer to train images with a label."""
    rows = np.flatnonzero((images.labels >= 0) & (splits == "train"))
    ids, labels = [images.ids[row] for row in rows], images.labels[rows]
    files: dict[str, pa.Table] = {}
    summary: dict[str, dict[str, Any]] = {}
    for name, budget in budgets.items():
        for seed in budget.seeds:
            selection = budget.select.make(labels, ids, seed)
            granted = labels[selection.positions]
            counts = np.bincount(granted, minlength=len(images.classes)).tolist()
            files[f"budgets/{name}-{seed}.parquet"] = pa.table(
                {"id": [ids[position] for position in selection.positions], "label": granted}
            )
            summary.setdefault(name, {})[str(seed)] = {
                "labels_used": len(granted),
                "per_class": dict(zip(images.classes, counts, strict=True)),
                "shortfall": {images.classes[label]: lacking for label, lacking in selection.shortfall.items()},
            }
    return files, summary


def describe(
    images: Images,
    kept: Stored,
    hashes: Sequence[str],
    splits: np.ndarray,
    pretrain_on: Sequence[str],
    summary: dict[str, dict[str, Any]],
) -> list[str]:
    """What the person who runs the stage should see, line by line."""
    height, width = kept.canvas
    most = "up to " if isinstance(kept, Encoded) else ""
    known = int((images.labels >= 0).sum())
    lines = [f"{len(images)} images of {most}{height}×{width}, {known} with a label, {len(images.classes)} classes"]
    lines.append(", ".join(f"{name} {(splits == name).sum()}" for name in _split.SPLITS))
    lines.append(f"pretraining sees {' and '.join(pretrain_on)} images")
    if leaks := _split.leaked(hashes, splits):
        lines.append(f"warning: {leaks} test images are, pixel for pixel, also in train or validation")
    for budget, seeds in summary.items():
        first, *_ = seeds.values()
        lines.append(f"budget {budget}: {first['labels_used']} labels")
        lines += [f"  class {name}: {lacking} fewer than asked" for name, lacking in first["shortfall"].items()]
    return lines


def write(stage: Stage, files: dict[str, pa.Table], summary: dict[str, Any]) -> None:
    """The tables and the summary of the budgets; the same content is the same bytes."""
    folder = paths.dataset(stage.item)
    images, budgets = stage.out(folder / "images"), stage.out(folder / "budgets")
    budgets.mkdir()
    (budgets / "summary.json").write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
    for name, table in files.items():
        top, _, rest = name.partition("/")
        inside = {"images": images, "budgets": budgets}.get(top)
        write_table(inside / rest if inside else stage.out(folder / name), table)


def write_table(path: Path, table: pa.Table) -> None:
    """Parquet without dictionaries and without Arrow's copy of the schema: the bytes depend on the content only."""
    pq.write_table(table, path, compression="zstd", use_dictionary=False, store_schema=False)


if __name__ == "__main__":
    run(prepare)
