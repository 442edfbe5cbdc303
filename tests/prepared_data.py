"""Data sets prepared without the frame of a stage, and the files that this leaves."""

from pathlib import Path

from PIL import Image

from pipeline.params import arguments
from stages.datasets._prepared import Prepared
from stages.prepare import prepare

BLOCK = {
    "source": {"name": "digits", "path": "stages/datasets/digits.py"},
    "subset": None,
    "split": {"validation": 0.2, "test": 0.2, "seed": 0},
    "quality": {"bad": 0.01, "near": None, "leaks": "report"},
    "pretrain_on": ["train"],
    "budgets": {
        "1pct": {"select": {"name": "balanced", "share": 0.01}, "seeds": [0, 1]},
        "10pct": {"select": {"name": "balanced", "share": 0.1}, "seeds": [0, 1]},
        "200each": {"select": {"name": "per_class", "images": 200}, "seeds": [0]},
    },
}


class Bench:
    """A stage without the frame: the outputs that dvc.yaml declares go straight below `root`."""

    item = "toy"
    outs = (
        "images",
        "labels.parquet",
        "splits.parquet",
        "pretrain/images.parquet",
        "pretrain/labels.parquet",
        "budgets",
        "manifest.parquet",
        "quarantine.csv",
        "summary.json",
    )

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ledger = root / "ledger"
        self.logged: dict[str, float] = {}

    def out(self, path: Path) -> Path:
        assert path.relative_to("data/datasets/toy").as_posix() in self.outs
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        return self.root / path

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged |= metrics

    def check(self) -> None: ...


def prepared(root: Path, **changes) -> Prepared:
    """The data set that BLOCK, with `changes`, gives below `root`."""
    prepare(Bench(root), **arguments(prepare, BLOCK | changes, "datasets.toy"))
    return Prepared(root / "data/datasets/toy")


def contents(data: Prepared) -> dict[str, bytes]:
    files = sorted(path for path in data.folder.rglob("*") if path.is_file())
    return {path.relative_to(data.folder).as_posix(): path.read_bytes() for path in files}


def paint(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (4, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], color).save(path)
