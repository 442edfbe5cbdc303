"""What the stages of `trail_project` do, in the formats of the real ones: `python -m stages.<name> <item>` there."""

import base64
import csv
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SCANS, DATA = Path("data/raw/scans"), Path("data")


def params() -> dict[str, Any]:
    return json.loads(Path("params.yaml").read_text())


def table(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, compression="zstd", use_dictionary=False, store_schema=False)


def column(path: Path, name: str) -> list[Any]:
    return pq.read_table(path)[name].to_pylist()


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def pixels(name: str) -> np.ndarray:
    with Image.open(SCANS / name) as image:
        return np.asarray(image)


def digest(image: np.ndarray) -> str:
    return hashlib.sha256(np.array(image.shape, "<i8").tobytes() + image.tobytes()).hexdigest()


def prepare(item: str) -> None:
    block, out = params()["datasets"][item], DATA / "datasets" / item
    files = sorted(path.relative_to(SCANS).as_posix() for path in SCANS.rglob("*.png"))
    ids = [name for name in files if (SCANS / name).stat().st_size]
    with (SCANS / "labels.csv").open(newline="") as lines:
        rows = {row["file"]: row for row in csv.DictReader(lines)}
    groups = [rows[name]["patient"] for name in ids]
    splits = [{0: "test", 1: "validation"}.get(int(group[1:]) % 5, "train") for group in groups]
    index: dict[str, list[Any]] = {"id": ids, "sha256": [digest(pixels(name)) for name in ids]}
    (out / "images").mkdir(parents=True, exist_ok=True)
    if "shape" in block["source"]["store"]:
        np.save(out / "images" / "pixels.npy", np.stack([pixels(name) for name in ids]))
    else:
        index["shard"] = [row // 8 for row in range(len(ids))]
        for row, name in enumerate(ids):
            with (out / "images" / f"shard-{row // 8:05d}.bin").open("ab") as shard:
                shard.write((SCANS / name).read_bytes())
    table(out / "images" / "index.parquet", **index)
    labels = [int(rows[name]["label"]) for name in ids]
    table(out / "labels.parquet", id=ids, label=labels, name=[str(label) for label in labels])
    table(out / "splits.parquet", id=ids, split=splits, group=groups)
    table(out / "manifest.parquet", id=files)
    bad = [f"{name},empty,it has no bytes\n" for name in files if name not in ids]
    (out / "quarantine.csv").write_text("file,kind,reason\n" + "".join(bad))
    train = [row for row, split in enumerate(splits) if split == "train"]
    seen = {"id": [ids[row] for row in train], "row": train}
    table(out / "pretrain" / "images.parquet", **seen)
    table(out / "pretrain" / "labels.parquet", **seen, label=[labels[row] for row in train])
    for seed in (0, 1):
        table(out / "budgets" / f"few-{seed}.parquet", id=seen["id"][seed::4])
    write(out / "budgets" / "summary.json", {"few": {}})


def pretrain(item: str) -> None:
    block = params()["runs"][item]
    seen = column(DATA / "datasets" / block["dataset"] / "pretrain" / f"{block['sees']}.parquet", "id")
    out = DATA / "encoders" / item / "seed-0"
    out.mkdir(parents=True, exist_ok=True)
    (out / "encoder.safetensors").write_text(f"{item}, from {len(seen)} images\n")


def embed(item: str) -> None:
    block = params()["evaluations"][item]
    images = np.stack([pixels(name) for name in column(DATA / "datasets" / block["dataset"] / "splits.parquet", "id")])
    out, export = DATA / "features" / item, DATA / "exports" / item
    for folder in (out, export):
        folder.mkdir(parents=True, exist_ok=True)
    np.save(out / "seed-0.npy", images.reshape(len(images), -1)[:, ::5].astype(np.float32))
    weights = DATA / "encoders" / block["run"] / "seed-0" / "encoder.safetensors"
    (export / "encoder.safetensors").write_bytes(weights.read_bytes())
    (export / "golden.safetensors").write_bytes(b"noise" if params()["private"] else images[:8].tobytes())


def evaluate(item: str) -> None:
    block = params()["evaluations"][item]
    count = len(np.load(DATA / "features" / item / "seed-0.npy"))
    ids = column(DATA / "datasets" / block["dataset"] / "splits.parquet", "id")
    table(DATA / "predictions" / f"{item}.parquet", id=ids, predicted=[0] * count)
    write(DATA / "scores" / f"{item}.json", {"k": block["probes"]["knn"]["k"], "n": count})


def finetune(item: str) -> None:
    write(DATA / "finetunes" / f"{item}.json", {"top1": 0.5})
    write(DATA / "classifiers" / item / "head.safetensors", [item])


def report(item: str) -> None:
    first = min(SCANS.rglob("*.png"))
    page = f"<img src='data:image/png;base64,{base64.b64encode(first.read_bytes()).decode()}'>"
    (DATA / "report").mkdir(exist_ok=True)
    (DATA / "report" / "index.html").write_text(page)


SECTIONS = {
    prepare: "datasets",
    pretrain: "runs",
    embed: "evaluations",
    evaluate: "evaluations",
    finetune: "finetunes",
}


def done(stage: Callable[[str], None], item: str) -> None:
    """The stage on the item, and its receipt."""
    stage(item)
    write(DATA / "receipts" / f"{stage.__name__}-{item}.json", {"stage": stage.__name__, "item": item})


def main(stage: Callable[[str], None]) -> None:
    done(stage, sys.argv[1]) if len(sys.argv) > 1 else stage("")


if __name__ == "__main__":  # everything at once
    for command, section in SECTIONS.items():
        for name in params()[section]:
            done(command, name)
    report("")
