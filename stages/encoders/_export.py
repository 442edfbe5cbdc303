"""Writing the folder that `_model.load` reads: what an encoder is, beside what it learned."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.plugins import STAGES, Spec, load


def describe(encoder: Spec, features: int, side: int, mean: tuple, std: tuple) -> dict[str, Any]:
    """The part of config.json that rebuilds the encoder and its preprocessing."""
    cls = load("encoders", encoder.name).__name__
    return {
        "encoder": {"name": encoder.name, "class": cls, "arguments": encoder.arguments},
        "features": features,
        "input": {"side": side, "mean": list(mean), "std": list(std)},
    }


def write(folder: Path, encoder: Spec, config: dict[str, Any]) -> None:
    """model.py, encoder.py and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(STAGES / "encoders" / "_model.py", folder / "model.py")
    shutil.copyfile(STAGES / "encoders" / f"{encoder.name}.py", folder / "encoder.py")
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def save_weights(module: nn.Module, path: Path) -> None:
    """The state_dict as safetensors, on the host and contiguous, so that the bytes depend on the values alone."""
    state = {name: tensor.cpu().contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, path)


def features_of(encoder: nn.Module, side: int, device: torch.device) -> int:
    """Width of what an encoder gives for images of `side` × `side` pixels."""
    encoder.eval()
    with torch.no_grad():
        return encoder(torch.zeros(1, 3, side, side, device=device)).shape[1]
