"""A prepared data set, as the later stages read it: every attribute reads its own file, when it is asked for."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import MissingInput, Refusal
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
        """The id of each image, (n,) of str."""
        return self._column("splits.parquet", "id").to_numpy()

    @cached_property
    def groups(self) -> np.ndarray:
        """The group of each image, (n,) of str: what is drawn as one; an image without a group goes by its sha256."""
        return self._column("splits.parquet", "group").to_numpy()

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 (n,), -1 = no label."""
        labels = np.full(len(self._known), -1, dtype=np.int64)
        labels[self._rows_of("labels.parquet")] = self._numbers("labels.parquet", "label")
        return labels

    @cached_property
    def classes(self) -> list[str]:
        """The names of the classes, by label."""
        named = pa.table({name: self._column("labels.parquet", name) for name in ("label", "name")})
        return named.group_by(["label", "name"]).aggregate([]).sort_by("label")["name"].to_pylist()

    @cached_property
    def pretrain(self) -> np.ndarray:
        """Rows that pretraining may see, int64, sorted."""
        return self._numbers("pretrain/images.parquet", "row")

    @cached_property
    def pretrain_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the train images that have a label, and these labels: what training with labels may see."""
        return self._numbers("pretrain/labels.parquet", "row"), self._numbers("pretrain/labels.parquet", "label")

    @cached_property
    def budget_summary(self) -> dict[str, dict[str, Any]]:
        """Budget → seed (a string) → labels_used, per_class, shortfall."""
        return json.loads(self._file("budgets/summary.json").read_text())

    def rows(self, split: str) -> np.ndarray:
        """Rows of a split, int64, sorted."""
        return np.flatnonzero(pc.equal(self._column("splits.parquet", "split"), split).to_numpy())

    def labeled(self, split: str) -> np.ndarray:
        """Rows of a split that have a label, int64, sorted."""
        rows = self.rows(split)
        return rows[self.labels[rows] >= 0]

    def require_labels(self) -> None:
        """Refusal unless a classifier can be judged: by 2 classes or more, on validation and on test images."""
        if len(self.classes) < 2:
            raise Refusal(
                f"the labels of {self.folder.name} are of {len(self.classes)} class(es), so there is nothing to tell "
                f"apart: label images of more, or take its finetunes out of params.yaml"
            )
        if empty := [split for split in ("validation", "test") if not len(self.labeled(split))]:
            raise Refusal(
                f"the {empty[0]} split of {self.folder.name} has no labeled image, so nothing can be measured: label "
                f"some or give it a larger share"
            )

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
        return pc.index_in(self._column(file, "id"), value_set=self._known).to_numpy().astype(np.int64)

    @cached_property
    def _known(self) -> pa.Array:
        return self._column("splits.parquet", "id").combine_chunks()

    def _numbers(self, file: str, column: str) -> np.ndarray:
        return self._column(file, column).to_numpy().astype(np.int64)  # a copy: Arrow lends to read

    def _column(self, file: str, column: str) -> pa.ChunkedArray:
        return pq.read_table(self._file(file), columns=[column])[column]

    def _file(self, name: str) -> Path:
        if not (self.folder / name).exists():
            out = self.folder / name.split("/")[0]
            raise MissingInput(f"{out} is missing: run `dvc repro prepare@{self.folder.name}`")
        return self.folder / name
