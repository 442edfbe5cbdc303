"""A prepared data set, as the later stages read it: every attribute reads its own file, when it is asked for."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline.errors import MissingInput
from stages.datasets._storage import Stored, stored


class Prepared:
    """What `prepare` left in data/datasets/<name>. Rows are positions in `images`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def images(self) -> Stored:
        """The images, by row."""
        return stored(self._file("images/index.parquet").parent)

    @cached_property
    def ids(self) -> np.ndarray:
        """The id of each image, str (n,)."""
        return self._column("images/index.parquet", "id")

    @cached_property
    def hashes(self) -> np.ndarray:
        """The sha256 of each image's shape and pixels, str (n,)."""
        return self._column("images/index.parquet", "sha256")

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 (n,), -1 = no label."""
        labels = np.full(len(self.ids), -1, dtype=np.int64)
        labels[self._rows_of("labels.parquet")] = self._column("labels.parquet", "label")
        return labels

    @cached_property
    def classes(self) -> list[str]:
        """The names of the classes, by label."""
        columns = (self._column("labels.parquet", name).tolist() for name in ("label", "name"))
        return [name for _, name in sorted(set(zip(*columns, strict=True)))]

    @cached_property
    def pretrain(self) -> np.ndarray:
        """Rows that pretraining may see, int64, sorted."""
        return self._column("pretrain/images.parquet", "row")

    @cached_property
    def pretrain_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the train images that have a label, and these labels: what training with labels may see."""
        return self._column("pretrain/labels.parquet", "row"), self._column("pretrain/labels.parquet", "label")

    @cached_property
    def budget_summary(self) -> dict[str, dict[str, Any]]:
        """Budget → seed (a string) → labels_used, per_class, shortfall."""
        return json.loads(self._file("budgets/summary.json").read_text())

    def rows(self, split: str) -> np.ndarray:
        """Rows of a split, int64, sorted."""
        return np.sort(self._rows_of("splits.parquet")[self._column("splits.parquet", "split") == split])

    def labelled(self, split: str) -> np.ndarray:
        """Rows of a split that have a label, int64, sorted."""
        rows = self.rows(split)
        return rows[self.labels[rows] >= 0]

    def budget(self, name: str, seed: int) -> np.ndarray:
        """Rows whose label a budget grants, int64, sorted."""
        if str(seed) not in self.budget_summary.get(name, {}):
            drawn = self.budget_summary.items()
            known = ", ".join(f"{budget} (seeds {', '.join(seeds)})" for budget, seeds in drawn)
            raise MissingInput(
                f"{self.folder / 'budgets'} holds no budget {name!r} with seed {seed}, only {known or 'none'}: "
                f"set it in params.yaml, datasets.{self.folder.name}.budgets"
            )
        return np.sort(self._rows_of(f"budgets/{name}-{seed}.parquet"))

    def _rows_of(self, file: str) -> np.ndarray:
        ids = self._column(file, "id")
        return self._order[np.searchsorted(self.ids, ids, sorter=self._order)]

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.ids)

    def _column(self, file: str, column: str) -> np.ndarray:
        return np.array(pq.read_table(self._file(file), columns=[column])[column].to_pylist())

    def _file(self, name: str) -> Path:
        if not (self.folder / name).exists():
            out = self.folder / name.split("/")[0]
            raise MissingInput(f"{out} is missing: run `dvc repro prepare@{self.folder.name}`")
        return self.folder / name
