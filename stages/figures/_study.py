"""What the figures read: the outputs of all other stages, each file opened when a figure asks for it."""

import csv
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline import paths
from pipeline.errors import MissingInput
from pipeline.params import COMMANDS
from pipeline.private import masked
from stages.datasets._prepared import Prepared
from stages.figures import _rows, _seen
from stages.figures._rows import Row

Curve = list[tuple[int, float]]  # (epoch, loss)
Blocks = dict[str, Any]  # a section of params.yaml: name -> block


class Study:
    """A study as its report sees it; the sections are those of params.yaml."""

    def __init__(
        self,
        name: str,
        private: bool,  # nothing of a single image may be shown: neither pixels nor its id nor a path
        sections: dict[str, Blocks],
    ) -> None:
        self.name, self.private = name, private
        self.sections = masked(sections) if private else sections
        self.datasets, self.runs = self.sections["datasets"], self.sections["runs"]
        self.evaluations, self.finetunes = self.sections["evaluations"], self.sections["finetunes"]

    @cached_property
    def results(self) -> dict[str, dict[str, Any]]:
        """{row: {score name: ...}}: scores and finetunes joined by name, in the order of params.yaml.

        To a protocol is added what only the whole study can tell of it.
        """
        joined: dict[str, dict[str, Any]] = {}
        for name in self.evaluations:
            joined[name] = dict(_json(paths.scores(name), f"evaluate@{name}"))
        for name in self.finetunes:
            joined.setdefault(name, {}).update(_json(paths.finetunes(name), f"finetune@{name}"))
        for name, scores in joined.items():
            for score, entry in scores.items():
                entry["protocol"] += _seen.note(self, name, score)
        return joined

    @cached_property
    def leaks(self) -> dict[str, str]:
        """evaluate@… or finetune@… → how many of its test images were trained on in another data set; only if any."""
        judged = {"evaluate": self.evaluations, "finetune": self.finetunes}
        found = {
            f"{command}@{name}": _seen.leak(self, block)
            for command in judged
            for name, block in judged[command].items()
        }
        return {stage: words for stage, words in found.items() if words}

    @cached_property
    def curves(self) -> dict[str, dict[int, Curve]]:
        """{run: {seed: [(epoch, loss)]}}, without the runs that do not train."""
        every = {run: {seed: _curve(run, seed) for seed in block["seeds"]} for run, block in self.runs.items()}
        return {run: seeds for run, seeds in every.items() if any(seeds.values())}

    @cached_property
    def rows(self) -> list[Row]:
        return _rows.make(self.results, self.finetunes | self.evaluations, self.runs, set(self.curves))

    @cached_property
    def compared(self) -> list[Row]:
        """The main row and, where there is another, the strongest untrained one; of the first row's data set."""
        home = [row for row in self.rows if row.dataset == self.rows[0].dataset]
        main, floor = _rows.main(home), _rows.floor(home)
        return [row for row in (main, floor if floor is not main else None) if row is not None]

    @cached_property
    def main(self) -> Row | None:
        """The row whose features the figures show; None in a study without kNN scores."""
        return self.compared[0] if self.compared else None

    @cached_property
    def budgets(self) -> list[str]:
        """Label budgets that some row was fine-tuned on, in the order of params.yaml."""
        names = dict.fromkeys(budget for block in self.datasets.values() for budget in block["budgets"])
        return [name for name in names if any(f"finetune.{name}.top1" in row.scores for row in self.rows)]

    @cached_property
    def receipts(self) -> list[dict[str, Any]]:
        """One per stage, in running order."""
        receipts = [_json(paths.receipt(stage), stage) for stage in self.stages]
        return masked(receipts) if self.private else receipts

    @property
    def stages(self) -> list[str]:
        """Every stage but the report, in running order."""
        return [
            f"{command}@{name}"
            for section, commands in COMMANDS.items()
            for command in commands
            for name in self.sections[section]
        ]

    def prepared(self, dataset: str) -> Prepared:
        return self._prepared.setdefault(dataset, Prepared(paths.dataset(dataset)))

    def hashes(self, dataset: str) -> np.ndarray:
        """The sha256 of the pixels of each image of a data set, (n,) of str."""
        index = _present(paths.dataset(dataset) / "images" / "index.parquet", f"prepare@{dataset}")
        return pq.read_table(index, columns=["sha256"])["sha256"].to_numpy()

    def summary(self, dataset: str) -> dict[str, Any]:
        """What is known of the images of a data set: counts, sizes, colors, duplicates, leaks."""
        return _json(paths.dataset(dataset) / "summary.json", f"prepare@{dataset}")

    def quarantine(self, dataset: str) -> list[dict[str, str]]:
        """The files that were left out: file, kind, reason."""
        path = _present(paths.dataset(dataset) / "quarantine.csv", f"prepare@{dataset}")
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def seed(self, row: Row) -> int:
        """The seed that stands for a row where only one can be shown: the lowest."""
        return min(self.runs[row.run]["seeds"])

    def features(self, row: Row) -> np.ndarray:
        """float32 (n, d), one line per image of the row's data set."""
        path = paths.features(row.name) / f"seed-{self.seed(row)}.npy"
        return np.load(_present(path, f"embed@{row.name}"), mmap_mode="r")

    def taps(self, row: Row) -> list[str]:
        """The names of the layers whose features were kept, from the first to the last."""
        return _json(paths.features(row.name) / "taps.json", f"embed@{row.name}")

    def predictions(self, row: Row, probe: str, seeds: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Test predictions of a probe: pixel rows, labels and predicted labels, int64 (m,), by seed and row."""
        path = _present(paths.predictions(row.name), f"evaluate@{row.name}")
        chosen = [("probe", "=", probe), ("split", "=", "test"), ("seed", "in", seeds)]
        table = pq.read_table(path, filters=chosen).to_pydict()
        places = {identity: place for place, identity in enumerate(self.prepared(row.dataset).ids.tolist())}
        at = np.array([places[identity] for identity in table["id"]], np.int64)
        order = np.lexsort((at, np.array(table["seed"], np.int64)))
        labels, predicted = (np.array(table[column], np.int64) for column in ("label", "predicted"))
        return at[order], labels[order], predicted[order]

    @cached_property
    def _prepared(self) -> dict[str, Prepared]:
        return {}


def _curve(run: str, seed: int) -> Curve:
    path = paths.encoder(run) / f"seed-{seed}" / "curves.csv"
    with _present(path, f"pretrain@{run}").open(newline="") as file:
        return [(int(line["epoch"]), float(line["loss"])) for line in csv.DictReader(file)]


def _json(path: Path, stage: str) -> Any:
    return json.loads(_present(path, stage).read_text())


def _present(path: Path, stage: str) -> Path:
    if not path.exists():
        raise MissingInput(f"{path} is missing: run `dvc repro {stage}`")
    return path
