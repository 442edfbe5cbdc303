"""A project of encoders that look at few or many pixels, as `embed` and `evaluate` leave it to the registry."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from pipeline import params, paths, registry
from stages import embed, evaluate
from stages.datasets._storage import Packed
from stages.encoders import _model

PARTS = {"train": 90, "validation": 60, "test": 60}
INPUT = {"side": 4, "mean": [0.0] * 3, "std": [1.0] * 3}
PROBES = {
    "knn": {"k": 5, "temperature": 0.07},
    "linear": {"penalties": {"low": 1e-3, "high": 1.0, "steps": 2}},
    "geometry": {},
}
NETWORK = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(48, 3)
    def forward(self, images):
        return self.linear(images.flatten(1))
"""


def write_data(folder):
    """Three classes of noisy 4×4 images, one channel brighter in each."""
    random = np.random.default_rng(0)
    n = sum(PARTS.values())
    labels = np.arange(n) % 3
    pixels = random.normal(100, 40, (n, 4, 4, 3)) + 40 * np.eye(3)[labels][:, None, None]
    ids = [f"{k:03}" for k in range(n)]
    (folder / "images").mkdir(parents=True)
    np.save(folder / "images" / "pixels.npy", pixels.clip(0, 255).astype(np.uint8))
    pq.write_table(pa.table({"id": ids, "sha256": ids}), folder / "images" / "index.parquet")
    names = ["red", "green", "blue"]
    table = {"id": ids, "label": labels, "name": [names[label] for label in labels]}
    pq.write_table(pa.table(table), folder / "labels.parquet")
    splits = [split for split, count in PARTS.items() for _ in range(count)]
    pq.write_table(pa.table({"id": ids, "split": splits, "group": ids}), folder / "splits.parquet")
    (folder / "pretrain").mkdir()
    train = range(PARTS["train"])
    pq.write_table(pa.table({"row": train, "id": ids[: len(train)]}), folder / "pretrain" / "images.parquet")
    (folder / "budgets").mkdir()
    (folder / "budgets" / "summary.json").write_text("{}")


def write_export(folder, looked_at):
    """An encoder that averages `looked_at` of the 16 pixels of each channel: the more, the less noise."""
    folder.mkdir(parents=True)
    weight = torch.zeros(3, 3, 16)
    weight[range(3), range(3), :looked_at] = 1 / looked_at
    bias = torch.full((3,), -0.45)
    shutil.copyfile(_model.__file__, folder / "model.py")
    (folder / "encoder.py").write_text(NETWORK)
    config = {"encoder": {"class": "Net", "arguments": {}}, "features": 3}
    config["input"] = INPUT
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"linear.weight": weight.flatten(1), "linear.bias": bias}, folder / "encoder.safetensors")
    inputs = torch.randint(0, 256, (8, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    save_file({"inputs": inputs, "outputs": _model.load(folder)(inputs).clone()}, folder / "golden.safetensors")


def write_evaluation(name, looked_at):
    """What embed and evaluate leave, and what dvc.lock says of it."""
    write_export(paths.export(name), looked_at)
    pixels = np.load(paths.dataset("toy") / "images" / "pixels.npy")
    features = embed.features(_model.load(paths.export(name)), Packed(pixels), lambda: None)
    paths.features(name).mkdir(parents=True)
    np.save(paths.features(name) / "seed-0.npy", features)
    rows = np.arange(PARTS["train"], len(pixels))
    np.save(paths.features(name) / "pairs.npy", rows)
    np.save(paths.features(name) / "pairs-0.npy", np.stack([features[rows]] * 2))
    probes = params.arguments(evaluate.evaluate, {"dataset": "toy", "probes": PROBES}, "evaluations")["probes"]
    tables = evaluate.read(paths.features(name), paths.dataset("toy"))
    scores, _ = evaluate.judge(tables, {key: probe.make for key, probe in probes.items()})
    paths.scores(name).parent.mkdir(exist_ok=True)
    paths.scores(name).write_text(json.dumps(scores))
    record(name)


def record(name):
    """Let dvc.lock say that the stages made what is there."""
    file = Path("dvc.lock")
    lock = json.loads(file.read_text()) if file.exists() else {"schema": "2.0", "stages": {}}
    for stage, path in (("embed", paths.export(name)), ("evaluate", paths.scores(name))):
        out = {"path": str(path), "md5": registry.content(path)}
        lock["stages"][f"{stage}@{name}"] = {"cmd": f"python -m stages.{stage} {name}", "outs": [out]}
    file.write_text(json.dumps(lock))


def write_params(study="toy"):
    run = {"dataset": "toy", "sees": "images", "encoder": {"name": "net"}, "init": "net.py", "input": INPUT}
    run["seeds"] = [0]
    runs = {name: run | {"method": {"name": "simclr"}} for name in ("fair", "good")}
    runs["random"] = run | {"method": {"name": "random"}}
    evaluations = {name: {"run": name, "dataset": "toy", "probes": PROBES} for name in runs}
    hardware = {"device": "cpu", "threads": 1, "precision": "fp32", "deterministic": True, "ranks": 1, "compile": False}
    values = {"study": study, "hardware": hardware, "runs": runs, "evaluations": evaluations}
    Path("params.yaml").write_text(json.dumps(values))
