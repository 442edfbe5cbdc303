"""Where every file lives, relative to the root of the repository: the one place that knows."""

from pathlib import Path

from pipeline.errors import Refusal

DATA = Path("data")
RAW = DATA / "raw"
REPORT = DATA / "report"
SCRATCH = Path(".scratch")


def root(start: Path | None = None) -> Path:
    """The nearest folder, from `start` (default: here) upward, that holds dvc.yaml."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "dvc.yaml").exists():
            return folder
    raise Refusal(f"{start} is not inside a Contrail repository: no dvc.yaml here or above")


def dataset(name: str) -> Path:
    return DATA / "datasets" / name


def ingest(dataset: str) -> Path:
    """What the next ingest of a data set need not decode again."""
    return SCRATCH / "ingest" / dataset


def encoder(run: str) -> Path:
    return DATA / "encoders" / run


def features(evaluation: str) -> Path:
    return DATA / "features" / evaluation


def export(evaluation: str) -> Path:
    return DATA / "exports" / evaluation


def scores(evaluation: str) -> Path:
    return DATA / "scores" / f"{evaluation}.json"


def predictions(evaluation: str) -> Path:
    return DATA / "predictions" / f"{evaluation}.parquet"


def finetunes(finetune: str) -> Path:
    return DATA / "finetunes" / f"{finetune}.json"


def classifiers(finetune: str) -> Path:
    return DATA / "classifiers" / finetune


def selection(name: str) -> Path:
    return DATA / "selections" / f"{name}.parquet"


def receipt(stage: str) -> Path:
    """The receipt of a stage such as `pretrain@simclr`."""
    return DATA / "receipts" / f"{stage.replace('@', '-')}.json"
