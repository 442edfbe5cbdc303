"""A made-up study in the formats of the real stages: handwritten digits, four rows; tests call `write_study`."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CROP = {"scale": [0.4, 1.0], "ratio": [0.75, 1.333], "interpolation": "bilinear"}
JITTER = {"probability": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
SIMCLR_VIEWS = {
    "name": "simclr",
    "crop": CROP,
    "flip": 0.0,
    "rotation": 15.0,
    "jitter": JITTER,
    "grayscale": 0.0,
    "blur": {"probability": 0.0, "kernel": 3, "sigma": [0.1, 2.0]},
}
WEAK_VIEWS = {"name": "weak", "crop": {"padding": 1}, "flip": 0.0, "rotation": 0.0}
QUALITY = {"bad": 0.01, "near": None, "leaks": "report"}
PROBES: dict[str, dict] = {"knn": {}, "linear": {}, "geometry": {}, "layers": {}}
OWN = "stages/objectives/supervised.py"
ROWS = ("simclr", "supervised", "random", "pixels")


class Stage:
    """As much of a running stage as the report asks for: outs go to `folder`."""

    study = "digits"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def out(self, path: Path) -> Path:
        self.folder.mkdir(exist_ok=True)
        return self.folder / path.name

    def check(self) -> None: ...


def make_params() -> dict:
    """The sections of params.yaml: rows in an order that no sorting gives."""
    run = {
        "dataset": "digits",
        "init": "stages/encoders/small_resnet.py",
        "input": {"side": 8, "mean": [0.5] * 3, "std": [0.5] * 3},
        "seeds": [0, 1, 2],
    }
    runs = {
        "simclr": {**run, "sees": "images", "method": {"name": "simclr"}, "views": SIMCLR_VIEWS},
        "supervised": {**run, "sees": "labels", "method": {"name": "supervised"}, "views": WEAK_VIEWS},
        "random": {**run, "sees": "images", "method": {"name": "random"}, "views": WEAK_VIEWS},
        "pixels": {**run, "sees": "images", "method": {"name": "random"}, "views": WEAK_VIEWS, "seeds": [0]},
    }
    budgets = {"1pct": {"seeds": [0, 1, 2]}, "10pct": {"seeds": [0, 1, 2]}}
    return {
        "private": False,
        "datasets": {"digits": {"pretrain_on": ["train"], "quality": QUALITY, "budgets": budgets}},
        "runs": runs,
        "evaluations": {name: {"run": name, "dataset": "digits", "probes": PROBES} for name in ROWS},
        "finetunes": {name: {"run": name, "dataset": "digits", "teacher": OWN} for name in ROWS[:3]},
        "selections": {},
    }


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_table(path: Path, **columns: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def write_dataset(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`count` digits prepared as `prepare` does; returns pixels, labels and splits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    gray = np.repeat((digits.images[:count] * 15.9375).astype(np.uint8)[..., None], 3, axis=3)
    labels = digits.target[:count].astype(np.int64)
    splits = np.random.default_rng(0).choice(["train", "validation", "test"], count, p=[0.6, 0.2, 0.2])
    ids = np.array([f"digit-{index:04}" for index in range(count)])
    train = np.flatnonzero(splits == "train")
    (folder / "images").mkdir(parents=True)
    np.save(folder / "images" / "pixels.npy", gray)
    write_table(folder / "images" / "index.parquet", id=ids, sha256=ids)
    write_table(folder / "labels.parquet", id=ids, label=labels, name=labels.astype(str))
    write_table(folder / "splits.parquet", id=ids, split=splits, group=ids)
    write_table(folder / "pretrain" / "images.parquet", id=ids[train], row=train)
    write_table(folder / "pretrain" / "labels.parquet", id=ids[train], row=train, label=labels[train])
    grant = {"labels_used": 10, "per_class": {}, "shortfall": {}}
    summary = {
        name: {str(s): grant | {"labels_used": n} for s in range(3)} for name, n in (("1pct", 10), ("10pct", 110))
    }
    write_json(folder / "budgets" / "summary.json", summary)
    write_findings(folder, ids, splits)
    return gray, labels, splits


def write_findings(folder: Path, ids: np.ndarray, splits: np.ndarray) -> None:
    """What prepare says about the files: two left out, one copy in test, one near copy."""
    train, test = (np.flatnonzero(splits == split) for split in ("train", "test"))
    size = {"least": 8, "median": 8, "most": 8}
    near = {"ids": ids[train[:2]].tolist(), "splits": ["train", "train"], "distance": 3}
    leak = {"ids": [ids[test[0]], ids[train[0]]], "splits": ["test", "train"], "distance": None}
    summary = {
        "files": len(ids) + 2,
        "images": len(ids),
        "quarantined": {"empty": 1, "truncated": 1},
        "treatments": {"gray": len(ids)},
        "bytes": {"files": 250_000, "images": 192 * len(ids)},
        "heights": size,
        "widths": size,
        "shapes": [{"height": 8, "width": 8, "images": len(ids)}],
        "colors": {
            "images": len(ids),
            "mean": [77.9] * 3,
            "std": [95.9] * 3,
            "brightness": [0, 0, 3, 90, 170, 120, *[2] * 10],
        },
        "duplicates": {
            "equal": {"groups": 1, "images": 2, "largest": 2},
            "near": {"groups": 1, "images": 2, "largest": 2},
            "contradictions": 0,
            "examples": [near],
        },
        "leaks": {"test": 1, "equal": 1, "others": 1, "examples": [leak]},
    }
    write_json(folder / "summary.json", summary)
    lines = ("file,kind,reason", "bad/<0>.png,empty,no bytes", "bad/1.png,truncated,it ends early")
    (folder / "quarantine.csv").write_text("".join(f"{line}\n" for line in lines))


def write_features(row: str, pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Class centers and noise, less noise for rows that learned; the pixels themselves for `pixels`."""
    draws = np.random.default_rng(len(row))
    noise = {"simclr": 0.62, "supervised": 0.45, "random": 2.0, "pixels": 0.0}[row]
    raw = pixels[..., 0].reshape(len(pixels), -1) / 255
    centers = np.stack([raw[labels == label].mean(0) for label in range(10)])
    features = centers[labels] + noise * draws.normal(0, 0.5, raw.shape) if noise else raw
    folder = Path("data/features") / row
    folder.mkdir(parents=True)
    for seed in range(3):
        np.save(folder / f"seed-{seed}.npy", features.astype(np.float32))
    write_json(folder / "taps.json", ["stem", "pool"])
    return features


def predict(features: np.ndarray, labels: np.ndarray, splits: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The class of the nearest training image by cosine."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    train = np.flatnonzero(splits == "train")
    return labels[train][(unit[test] @ unit[train].T).argmax(1)]


def entry(mean: float, labels_used: int, protocol: str, n: int = 3) -> dict:
    """A score as evaluate and finetune write it; validation a little above test."""
    values = [round(mean + shift, 4) for shift in np.linspace(-0.004, 0.004, n)] if n > 1 else [mean]
    test = {"mean": mean, "std": 0.004 if n > 1 else 0.0, "n": n, "values": values}
    val = {**test, "mean": round(mean + 0.003, 4)}
    interval = (
        {} if protocol.startswith("On") else {"interval": [round(mean - 0.02, 4), round(min(1, mean + 0.015), 4)]}
    )
    return {"test": test | interval, "val": val, "protocol": protocol, "labels_used": labels_used}


def write_scores(row: str, accuracy: float, place: int, seeds: int, labels: int) -> None:
    scores = {
        f"{probe}.{score}": entry(round(accuracy + bonus - loss, 4), labels, protocol, seeds)
        for probe, bonus, protocol in (
            ("knn", 0.0, "Cosine, weighted, k 20, temperature 0.07; every labeled training image."),
            ("linear", 0.005, "Logistic regression on frozen features, L2 chosen on validation."),
        )
        for score, loss in (("top1", 0.0), ("balanced_accuracy", 0.002), ("macro_f1", 0.003))
    }
    for score, value in (("alignment", 0.3 + place), ("uniformity", -2.6 + place / 4), ("rankme", 31.4 - 5 * place)):
        scores[f"geometry.{score}"] = entry(value, 0, "On unit features of validation or test images.", seeds)
    for tap, loss in (("stem", 0.1), ("pool", 0.0)):
        protocol = "On every layer: logistic regression, L2 chosen on validation."
        scores[f"layers.{tap}.top1"] = entry(round(accuracy + 0.005 - loss, 4), labels, protocol, seeds)
    scores["linear.top1"]["chosen"] = {"penalty": [0.01, 0.1, 0.1][:seeds]}
    write_json(Path("data/scores") / f"{row}.json", scores)


def write_finetunes(row: str, few: float, more: float) -> None:
    protocol = "Whole encoder trained on the budget's labels, last epoch, 60 epochs."
    scores = {
        f"finetune.{budget}.{score}": entry(round(mean - loss, 4), used, protocol, 9)
        for budget, mean, used in (("1pct", few, 10), ("10pct", more, 110))
        for score, loss in (("top1", 0.0), ("balanced_accuracy", 0.001), ("macro_f1", 0.004))
    }
    write_json(Path("data/finetunes") / f"{row}.json", scores)


def write_curves(run: str, seeds: list[int]) -> None:
    """Falling losses for runs that train, only the header for the others."""
    for seed in seeds:
        path = Path("data/encoders") / run / f"seed-{seed}" / "curves.csv"
        path.parent.mkdir(parents=True)
        lines = ["epoch,learning_rate,loss"]
        if run in ("simclr", "supervised"):
            top, floor = {"simclr": (5.1, 3.3), "supervised": (2.3, 0.05)}[run]
            draws = np.random.default_rng(seed)
            losses = floor + (top - floor) * np.exp(-np.arange(60) / 12) + draws.normal(0, 0.02, 60)
            lines += [f"{epoch},0.001,{loss:.8g}" for epoch, loss in enumerate(losses)]
        path.write_text("\n".join(lines) + "\n")


def write_receipts(params: dict) -> None:
    commands = {"prepare": "datasets", "pretrain": "runs", "embed": "evaluations", "evaluate": "evaluations"}
    for command, section in (commands | {"finetune": "finetunes"}).items():
        for name, block in params[section].items():
            receipt = {
                "stage": f"{command}@{name}",
                "params": {f"{section}.{name}": block},
                "code": {f"stages/{command}.py": "0123456789abcdef" * 2},
                "data": {"data/datasets/digits/images": "fedcba9876543210" * 2 + ".dir"},
                "versions": {"python": "3.11.2", "torch": "2.14.1", "numpy": "2.4.6"},
                "hardware": {"device": "Some CPU", "instruction_set": "AVX2", "threads": 1, "precision": "fp32"},
            }
            write_json(Path("data/receipts") / f"{command}-{name}.json", receipt)


def write_study(count: int) -> dict:
    """All that the report reads, under ./data; returns the sections of params.yaml."""
    params = make_params()
    pixels, labels, splits = write_dataset(Path("data/datasets/digits"), count)
    test = np.flatnonzero(splits == "test")
    for place, row in enumerate(ROWS):
        seeds = params["runs"][row]["seeds"]
        features = write_features(row, pixels, labels)
        predicted = predict(features, labels, splits, test)
        accuracy = min(0.99, round(float((predicted == labels[test]).mean()), 4))
        table = [
            (probe, seed, at, said)
            for probe in ("knn", "linear")
            for seed in seeds
            for at, said in zip(test, predicted, strict=True)
        ]
        Path("data/predictions").mkdir(exist_ok=True)
        write_table(
            Path("data/predictions") / f"{row}.parquet",
            probe=[line[0] for line in table],
            seed=[line[1] for line in table],
            id=[f"digit-{line[2]:04}" for line in table],
            split=["test"] * len(table),
            label=[int(labels[line[2]]) for line in table],
            predicted=[int(line[3]) for line in table],
        )
        write_scores(row, accuracy, place, len(seeds), int((splits == "train").sum()))
        write_curves(row, seeds)
    for row, few, more in (("simclr", 0.871, 0.953), ("supervised", 0.902, 0.961), ("random", 0.518, 0.882)):
        write_finetunes(row, few, more)
    write_receipts(params)
    return params
