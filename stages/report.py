"""Stage `report`: the whole study → one page that people look at, and tables that DVC compares.

    data/{scores,finetunes,predictions,features,encoders,datasets,receipts} → data/report/
        index.html     the page: table, figures, receipts; needs no other file and no network
        results.json   {row: {score name: {"test", "val", "protocol", "labels_used"}}}, rows as in params.yaml; the
                       protocol also says which test images pretraining on another data set saw
        curves.csv, accuracy.csv, confusion.csv    for `dvc plots`

Only the study of params.yaml is reported: anything else in data/ is refused.

    python -m stages.report
"""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.errors import Refusal
from pipeline.params import SECTIONS
from pipeline.stage import Stage, run
from stages.figures import (
    _opening,
    _page,
    accuracy_against_labels,
    confusion,
    curves,
    data,
    feature_map,
    layers,
    neighbors,
    receipts,
    results_table,
    views,
)
from stages.figures._study import Study

FIGURES = (
    results_table,
    accuracy_against_labels,
    layers,
    curves,
    feature_map,
    neighbors,
    confusion,
    views,
    data,
    receipts,
)
FOLDERS = (
    "datasets",
    "encoders",
    "features",
    "exports",
    "predictions",
    "scores",
    "finetunes",
    "classifiers",
    "selections",
    "receipts",
)


def report(
    stage: Stage,
    *,
    private: bool,
    datasets: dict[str, dict[str, Any]],
    runs: dict[str, dict[str, Any]],
    evaluations: dict[str, dict[str, Any]],
    finetunes: dict[str, dict[str, Any]],
    selections: dict[str, dict[str, Any]],
) -> None:
    """Write the page and the tables; Refusal for strangers in data/, MissingInput for a stage that has not run."""
    blocks = (datasets, runs, evaluations, finetunes, selections)
    study = Study(stage.study, private, dict(zip(SECTIONS, blocks, strict=True)))
    refuse_strangers(study)
    for judged, words in study.leaks.items():
        print(f"warning: {judged}: {words}", flush=True)
    results = {row: json.loads(json.dumps(scores, sort_keys=True)) for row, scores in study.results.items()}
    stage.out(paths.REPORT / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    write_csv(stage.out(paths.REPORT / "curves.csv"), ("run", "seed", "epoch", "loss"), loss_lines(study))
    write_csv(stage.out(paths.REPORT / "accuracy.csv"), ("row", "labels", "budget", "top1", "std"), label_lines(study))
    write_csv(stage.out(paths.REPORT / "confusion.csv"), ("actual", "predicted"), confusion_lines(study))
    sections = []
    for figure in FIGURES:
        stage.check()
        sections.append(figure.section(study))
    page = _page.render(study.name, _opening.sentences(study), _opening.facts(study), [s for s in sections if s])
    stage.out(paths.REPORT / "index.html").write_text(page)


def refuse_strangers(study: Study) -> None:
    """Refusal if data/ holds results that params.yaml does not name: a report of two studies in one is a wrong one."""
    expected = {
        *map(paths.dataset, study.datasets),
        *map(paths.encoder, study.runs),
        *(
            path(x)
            for x in study.evaluations
            for path in (paths.features, paths.export, paths.predictions, paths.scores)
        ),
        *map(paths.finetunes, study.finetunes),
        *map(paths.selection, study.sections["selections"]),
        *map(paths.classifiers, study.finetunes),
        *map(paths.receipt, study.stages),
    }
    found = {path for folder in FOLDERS for path in (paths.DATA / folder).glob("*")}
    strangers = sorted(str(path) for path in found - expected if not path.name.startswith("."))
    if strangers:
        words = " ".join(strangers)
        raise Refusal(
            f"data/ holds what params.yaml does not name: {', '.join(strangers)}. If you are done with it, remove it "
            f"(`git rm -rq --ignore-unmatch {words}; rm -rf {words}`); if not, put its block back into params.yaml"
        )


def loss_lines(study: Study) -> Iterable[Sequence[object]]:
    """A line per run, seed and epoch."""
    for name, seeds in study.curves.items():
        for seed, curve in seeds.items():
            yield from ((name, seed, epoch, f"{loss:.6g}") for epoch, loss in curve)


def label_lines(study: Study) -> Iterable[Sequence[object]]:
    """A line per row and label budget, test top-1 in 0..1."""
    for row in study.rows:
        for budget in study.budgets:
            if entry := row.scores.get(f"finetune.{budget}.top1"):
                mean, std = (f"{entry['test'][key]:.6f}" for key in ("mean", "std"))
                yield row.name, entry["labels_used"], budget, mean, std


def confusion_lines(study: Study) -> Iterable[Sequence[object]]:
    """A line per test image and seed of the main row."""
    if study.main is not None:
        classes = study.prepared(study.main.dataset).classes
        _, _, _, labels, predicted = confusion.judged(study)
        yield from ((classes[actual], classes[said]) for actual, said in zip(labels, predicted, strict=True))


def write_csv(path: Path, head: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(lines)


if __name__ == "__main__":
    run(report)
