"""Stage `prepare`: images and labels of a source → fixed arrays, splits and label budgets.

data/datasets/<name>/images/                                   the images, their ids and content hashes: see _storage
                     labels.parquet, splits.parquet            the labels that are known; train, validation, test
                     pretrain/images.parquet, pretrain/labels.parquet   what pretraining may see without and with labels
                     budgets/<budget>-<seed>.parquet, budgets/summary.json   which train images grant their label
                     manifest.parquet, quarantine.csv          every file of the source; those left out, and why
                     summary.json                              counts, sizes, colors, what was converted

    python -m stages.prepare digits
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from pipeline import paths
from pipeline.hardware import cores
from pipeline.params import Block, Count, Name, Probability, Seeds
from pipeline.plugins import plugin
from pipeline.stage import Stage, run
from stages.budgets._permutation import Candidates
from stages.datasets import _duplicates, _split, _summary
from stages.datasets._images import Images
from stages.datasets._storage import Encoded, Stored, stored
from stages.datasets._writing import Written
from stages.datasets._writing import write as write_images

Share = Annotated[float, Field(gt=0, lt=1)]


class Split(Block):
    """Shares of the images, by whole groups; "own" keeps the source's, and a share is then one of the others."""

    validation: Share | Literal["own"]
    test: Share | Literal["own"]
    seed: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _some_are_left(self) -> "Split":
        if self.test != "own" and self.validation != "own" and self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave no train images")
        return self


class Quality(Block):
    """What is expected of the files.

    bad: share of them that may be left out, as they are no images that can be used; more of them fail the stage.
    near: bits of 64 in which the perceptual hashes of near duplicates differ at most; null: equal images only.
    leaks: report = tell which train and validation images are in test; remove = and exclude them from learning.
    """

    bad: Probability
    near: Annotated[int, Field(ge=0, le=16)] | None
    leaks: Literal["report", "remove"]


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
    quality: Quality,
    pretrain_on: Annotated[list[Literal["train", "validation", "test"]], Field(min_length=1)],
    budgets: dict[Name, Budget],
) -> None:
    """Prepare one data set; `subset` keeps that many images, classes balanced, null keeps all."""
    images = source.make()
    if subset is not None:
        images = images.take(_split.subset(images, subset))
    files = images
    images, written = ingest(stage, files, quality)
    hashes = written.hashes
    groups = _split.grouped(images.groups, hashes)
    images = _split.occurring(images)
    splits = _split.assign(groups, images.split, validation=split.validation, test=split.test, seed=split.seed)
    if images.groups is not None:
        _split.require_whole(images.groups, splits)
    found = _duplicates.find(images.ids, hashes, written.kept["phash"], quality.near, splits, images.labels)
    if quality.leaks == "remove":
        splits[found.leaking] = "excluded"
    _split.require_images(splits, len(groups.unique()))
    chosen, summary = choose(images, groups, splits, budgets)
    stage.log({name: float((splits == name).sum()) for name in _split.SPLITS})
    index = {"sha256": hashes, **written.places}
    write(stage, {**tables(images, index, groups, splits, pretrain_on), **chosen}, summary)
    kept = stored(stage.out(paths.dataset(stage.item) / "images"))
    about = _summary.summary(files, written, kept) | {"duplicates": found.duplicates, "leaks": found.leaks}
    write_json(stage.out(paths.dataset(stage.item) / "summary.json"), about)
    if written.bad:
        print(f"{len(written.bad)} of {len(files)} files left out: {_summary.counted(written)}; see quarantine.csv")
    print("\n".join(describe(images, kept, found, groups, splits, pretrain_on, summary)), flush=True)


def ingest(stage: Stage, images: Images, quality: Quality) -> tuple[Images, Written]:
    """Write the images that can be used, and the lists; these images, and what is known of them."""
    folder = paths.dataset(stage.item)
    out = stage.out(folder / "images")
    out.mkdir()
    near = quality.near is not None
    written = write_images(out, images, stage.ledger, near=near, workers=cores(), check=stage.check)
    _summary.quarantine(stage.ledger / "quarantine.csv", images, written)
    _summary.require_usable(images, written, quality.bad, stage.item, stage.ledger / "quarantine.csv")
    shutil.copyfile(stage.ledger / "quarantine.csv", stage.out(folder / "quarantine.csv"))
    write_table(stage.out(folder / "manifest.parquet"), _summary.manifest(images, written))
    return images.take(written.rows) if written.bad else images, written


def tables(
    images: Images, index: dict[str, Any], groups: pa.Array, splits: np.ndarray, pretrain_on: Sequence[str]
) -> dict[str, pa.Table]:
    """File name → table, but for the budgets."""
    ids = pa.array(images.ids, pa.string())
    known = np.flatnonzero(images.labels >= 0)
    seen = np.flatnonzero(np.isin(splits, pretrain_on))
    train = known[splits[known] == "train"]
    names = pa.array(images.classes, pa.string())
    return {
        "images/index.parquet": pa.table({"id": ids, **index}),
        "labels.parquet": pa.table(
            {"id": ids.take(known), "label": images.labels[known], "name": names.take(images.labels[known])}
        ),
        "splits.parquet": pa.table({"id": ids, "split": splits, "group": groups}),
        "pretrain/images.parquet": pa.table({"id": ids.take(seen), "row": seen}),
        "pretrain/labels.parquet": pa.table({"id": ids.take(train), "row": train, "label": images.labels[train]}),
    }


def choose(
    images: Images, groups: pa.Array, splits: np.ndarray, budgets: dict[str, Budget]
) -> tuple[dict[str, pa.Table], dict[str, dict[str, Any]]]:
    """The budgets: file name → table, and budget → seed → what it grants. Shares refer to train images with a label."""
    rows = np.flatnonzero((images.labels >= 0) & (splits == "train"))
    ids, labels = [images.ids[row] for row in rows], images.labels[rows]
    candidates = Candidates(labels, ids, groups.take(rows), images.classes)
    files: dict[str, pa.Table] = {}
    summary: dict[str, dict[str, Any]] = {}
    for name, budget in budgets.items():
        for seed in budget.seeds:
            selection = budget.select.make(candidates, seed)
            granted = labels[selection.positions]
            counts = np.bincount(granted, minlength=len(images.classes)).tolist()
            files[f"budgets/{name}-{seed}.parquet"] = pa.table(
                {"id": pa.array([ids[at] for at in selection.positions], pa.string()), "label": granted}
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
    found: _duplicates.Findings,
    groups: pa.Array,
    splits: np.ndarray,
    pretrain_on: Sequence[str],
    summary: dict[str, dict[str, Any]],
) -> list[str]:
    """What the person who runs the stage should see, line by line."""
    height, width = kept.canvas
    most = "up to " if isinstance(kept, Encoded) else ""
    known = int((images.labels >= 0).sum())
    lines = [f"{len(images)} images of {most}{height}×{width}, {known} with a label, {len(images.classes)} classes"]
    counts = {name: int((splits == name).sum()) for name in _split.SPLITS}
    if images.groups is None:
        lines.append(", ".join(f"{name} {count}" for name, count in counts.items()))
    else:
        of = {name: len(groups.filter(splits == name).unique()) for name in _split.SPLITS}
        lines.append(", ".join(f"{name} {count} of {of[name]} groups" for name, count in counts.items()))
    if reason := _split.unjudged(images.labels, splits, images.classes):
        lines.append(f"warning: {reason}: enough for pretraining, but not for probes and fine-tuning")
    lines.append(f"pretraining sees {' and '.join(pretrain_on)} images")
    lines += _duplicates.warnings(found, splits)
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
    write_json(budgets / "summary.json", summary)
    for name, table in files.items():
        top, _, rest = name.partition("/")
        inside = {"images": images, "budgets": budgets}.get(top)
        write_table(inside / rest if inside else stage.out(folder / name), table)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """One number per line, keys sorted, so that a review shows what changed."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_table(path: Path, table: pa.Table) -> None:
    """Parquet without dictionaries and without Arrow's copy of the schema: the bytes depend on the content only."""
    pq.write_table(table, path, compression="zstd", use_dictionary=False, store_schema=False)


if __name__ == "__main__":
    run(prepare)
