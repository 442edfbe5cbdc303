"""Stage `evaluate`: what the frozen features are worth, by every probe of the evaluation.

    data/features/<evaluation>/seed-<s>.npy, pairs-<s>.npy, pairs.npy, taps.json, taps-<s>/<name>.npy
    data/datasets/<dataset>/labels.parquet, splits.parquet, pretrain/images.parquet, budgets/
        → data/scores/<evaluation>.json           per score: mean, std over seeds, values; test with a 95 % interval
        → data/predictions/<evaluation>.parquet   probe, seed, id, split, label, predicted

    python -m stages.evaluate simclr

`judge` is the whole of it without files: features and labels in, scores and predictions out.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BeforeValidator, InstanceOf, ValidationInfo
from torch import Tensor

from pipeline import paths
from pipeline.errors import MissingInput, Refusal
from pipeline.params import Name
from pipeline.plugins import Spec, specify
from pipeline.stage import Stage, run
from stages.datasets._prepared import Prepared
from stages.probes._metrics import pretrained_in_words, summarize, summary
from stages.probes._table import JUDGED, SPLITS, Table, Verdict

ENCODER = "encoder in eval mode, last epoch"
Score = Callable[[Table], Verdict]
PREDICTIONS = pa.schema(
    [
        ("probe", pa.string()),  # its key in the evaluation
        ("seed", pa.int64()),
        ("id", pa.string()),
        ("split", pa.string()),  # "val" or "test"
        ("label", pa.int64()),
        ("predicted", pa.int64()),
    ]
)


def _specify(blocks: Any, info: ValidationInfo) -> Any:
    """A probe's key names its scores, and its file unless the block has a `name`: {knn_k200: {name: knn, k: 200}}."""
    if not isinstance(blocks, dict):
        return blocks
    where = f"{(info.context or {}).get('where', '')}.{info.field_name}"
    return {
        key: specify("probes", {"name": key, **block} if isinstance(block, dict) else block, f"{where}.{key}")
        for key, block in blocks.items()
    }


Probes = Annotated[dict[Name, InstanceOf[Spec]], BeforeValidator(_specify)]


def evaluate(stage: Stage, *, dataset: Name, probes: Probes) -> None:
    """Scores and predictions of every seed's features."""
    tables = read(paths.features(stage.item), paths.dataset(dataset))
    scores, predictions = judge(tables, {key: spec.make for key, spec in probes.items()})
    text = json.dumps(scores, indent=1, sort_keys=True, allow_nan=False)
    stage.out(paths.scores(stage.item)).write_text(text + "\n")
    out = stage.out(paths.predictions(stage.item))
    pq.write_table(predictions, out, compression="zstd", use_dictionary=False, store_schema=False)
    stage.log({f"{name}.{split}": score[split]["mean"] for name, score in scores.items() for split in JUDGED})


def read(features: Path, dataset: Path) -> dict[int, Table]:
    """The tables of all seeds, by seed, from what `embed` and `prepare` left."""
    prepared = Prepared(dataset)
    seeds = sorted(int(path.stem.removeprefix("seed-")) for path in features.glob("seed-*.npy"))
    if not seeds:
        raise MissingInput(f"{features} holds no features: run `dvc repro embed@{features.name}`")
    shared: dict[str, Any] = {
        "labels": torch.from_numpy(prepared.labels),
        "rows": {key: torch.from_numpy(prepared.rows(split)) for key, split in SPLITS.items()}
        | {"pretrain": torch.from_numpy(prepared.pretrain)},
        "classes": prepared.classes,
        "ids": prepared.ids,
        "groups": prepared.groups,
        "pair_rows": torch.from_numpy(np.load(features / "pairs.npy")),
        "budgets": {
            budget: [torch.from_numpy(prepared.budget(budget, int(seed))) for seed in sorted(draws, key=int)]
            for budget, draws in prepared.budget_summary.items()
        },
    }
    return {
        seed: Table(
            features=torch.from_numpy(np.load(features / f"seed-{seed}.npy")),
            pairs=torch.from_numpy(np.load(features / f"pairs-{seed}.npy")),
            taps=read_taps(features, seed),
            **shared,
        )
        for seed in seeds
    }


def read_taps(features: Path, seed: int) -> dict[str, Tensor]:
    """What every layer gives, by name, if `embed` kept it; "pool" is the features."""
    kept = features / "taps.json"
    names = json.loads(kept.read_text()) if kept.exists() else []
    return {
        name: torch.from_numpy(
            np.load(features / (f"seed-{seed}.npy" if name == "pool" else f"taps-{seed}/{name}.npy"))
        )
        for name in names
    }


def judge(tables: Mapping[int, Table], probes: Mapping[str, Score]) -> tuple[dict[str, Any], pa.Table]:
    """Tables by seed, probes by key → scores by name and predictions (see PREDICTIONS). Opens no file."""
    for seed, table in tables.items():
        _require_finite(seed, table)
    scores: dict[str, Any] = {}
    predictions = [PREDICTIONS.empty_table()]
    for key, score in probes.items():
        verdicts = {seed: score(table) for seed, table in sorted(tables.items())}
        scores |= {f"{key}.{metric}": value for metric, value in _scores(tables, verdicts).items()}
        for seed, verdict in verdicts.items():
            predictions += [_predictions(key, seed, split, tables[seed], verdict) for split in verdict.predictions]
    return scores, pa.concat_tables(predictions)


def _scores(tables: Mapping[int, Table], verdicts: dict[int, Verdict]) -> dict[str, dict[str, Any]]:
    """The scores of one probe by metric, over the seeds."""
    every, first, table = list(verdicts.values()), next(iter(verdicts.values())), next(iter(tables.values()))
    seen = pretrained_in_words(
        table.rows.get("pretrain", table.rows["train"]), {split: table.rows[key] for key, split in SPLITS.items()}
    )
    protocol, used = f"{first.protocol}, {ENCODER}{seen}", first.labels_used
    scores: dict[str, dict[str, Any]] = {
        metric: {split: summary([verdict.values[split][metric] for verdict in every]) for split in JUDGED}
        | {"protocol": protocol, "labels_used": used}
        for metric in first.values.get("test", {})
    }
    if first.predictions or first.draws:
        said = [verdict.draws or {split: p[None] for split, p in verdict.predictions.items()} for verdict in every]
        predicted = {split: (table.examples(split)[1], torch.cat([each[split] for each in said])) for split in JUDGED}
        scores |= summarize(predicted, protocol, used, table.groups[table.labeled("test").numpy()])
    if first.chosen:
        chosen = {name: [verdict.chosen[name] for verdict in every] for name in first.chosen}
        scores = {metric: score | {"chosen": chosen} for metric, score in scores.items()}
    return scores


def _predictions(key: str, seed: int, split: str, table: Table, verdict: Verdict) -> pa.Table:
    """What one probe predicts of one split with the features of one seed."""
    rows = table.labeled(split).numpy()
    columns = {
        "probe": [key] * len(rows),
        "seed": [seed] * len(rows),
        "id": table.ids[rows],
        "split": [split] * len(rows),
        "label": table.labels.numpy()[rows],
        "predicted": verdict.predictions[split].cpu().numpy(),
    }
    return pa.table(columns, schema=PREDICTIONS)


def _require_finite(seed: int, table: Table) -> None:
    broken = (~table.features.isfinite().all(1)).nonzero()[:, 0]
    if len(broken):
        raise Refusal(
            f"the features of seed {seed} are not finite for {len(broken)} of {len(table.features)} images "
            f"(the first: {table.ids[broken[0]]}): the encoder of this seed diverged. Train it again with a lower "
            f"learning rate, or take {seed} out of the `seeds` of its run"
        )


if __name__ == "__main__":
    run(evaluate)
