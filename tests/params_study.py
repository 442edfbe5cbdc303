"""A small params.yaml that is right, for tests to spoil, and the sentence with which it is refused then."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import params
from pipeline.errors import ParamsError

ROOT = Path(__file__).resolve().parent.parent

STUDY = """
study: small
private: false
hardware: { device: cpu, threads: 1, precision: fp32, deterministic: true, ranks: 1, compile: false }
datasets:
  digits:
    source: { name: digits, path: stages/datasets/digits.py }
    subset: null
    split: { validation: 0.2, test: 0.2, seed: 0 }
    quality: { bad: 0.01, near: null, leaks: report }
    pretrain_on: [train]
    budgets:
      1pct: { select: { name: balanced, share: 0.01 }, seeds: [0, 1] }
runs:
  simclr: &run
    dataset: digits
    sees: images
    method: { name: simclr, temperature: 1, reduction: paper, projector: { layers: 2, hidden: 8, out: 4, norm: all } }
    views: &views { name: weak, crop: { padding: 1 }, flip: 0.0, rotation: 15.0 }
    encoder: { name: small_resnet, width: 8, blocks: 1 }
    init: stages/encoders/small_resnet.py
    input: { side: 8, mean: [0, 0, 0], std: [1, 1, 1] }
    training: &training
      epochs: 1
      batch_size: 256
      accumulate: 1
      optimizer: { name: sgd, learning_rate: 0.5, momentum: 0.9, nesterov: false, weight_decay: 1e-4 }
      warmup_epochs: 1
      monitor_epochs: 0
    seeds: [0]
  lars:
    <<: *run
    training: { <<: *training, optimizer: { name: lars, learning_rate: 1, momentum: 0.9, weight_decay: 0, trust: 1 } }
evaluations:
  simclr: { run: simclr, dataset: digits, pairs: *views, taps: false, probes: { knn: { k: 5, temperature: 0.07 } } }
finetunes: {}
selections: {}
"""


FINETUNE = {
    "run": "simclr",
    "dataset": "digits",
    "objective": {"name": "supervised"},
    "teacher": "stages/objectives/supervised.py",
    "views": {"name": "identity"},
    "head": "h",
    "training": {
        "steps": 1,
        "schedule": "cosine",
        "batch_size": 8,
        "accumulate": 1,
        "optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0, "nesterov": False, "weight_decay": 0},
        "warmup_epochs": 0,
    },
    "budgets": ["1pct"],
}
MISSING = object()
JARGON = ("pydantic", "input should", "tagged-union", "literal_error", "function-", "constrained-", "[type=", "http")


def written(folder: Path, text: str | bytes) -> dict[str, Any]:
    """What `read` makes of a file that holds `text`."""
    path = folder / "params.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return params.read(path)


def put(values: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """`values` with `value` at a place such as "runs/simclr/method"; MISSING takes the key away."""
    *way, last = place.split("/")
    block = values
    for step in way:
        block = block[step]
    if value is MISSING:
        del block[last]
    else:
        block[last] = value
    return values


def refused(values: dict[str, Any]) -> str:
    """The one human sentence with which `check` refuses."""
    with pytest.raises(ParamsError) as error:
        params.check(values)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert not [word for word in JARGON if word in sentence.lower()]
    return sentence


def planned(folder: Path, study: dict[str, Any]) -> Path:
    """The graph of a study, without its code and data."""
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    (folder / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    (folder / "params.yaml").write_text(json.dumps(study))
    return folder
