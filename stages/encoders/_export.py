"""Writing the folder that `_model.load` reads: what an encoder is, beside what it learned."""

import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.plugins import STAGES, Spec, load


def describe(encoder: Spec, features: int, side: int, mean: tuple, std: tuple) -> dict[str, Any]:
    """The part of config.json that rebuilds the encoder and its preprocessing; `needs`: a package and its version."""
    cls = load("encoders", encoder.name)
    package = getattr(cls, "needs", None)
    needs = {"needs": f"{package}=={metadata.version(package)}"} if package else {}
    return {
        "encoder": {"name": encoder.name, "class": cls.__name__, "arguments": encoder.arguments, **needs},
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


def save_program(encoder: nn.Module, side: int, path: Path) -> None:
    """The network of an encoder in eval mode on the CPU, for any number of images, as a program of torch.export.

    The bytes depend on the network alone: no traces of where its source lay, weights as they lie in safetensors.
    """
    images, count = torch.zeros(2, 3, side, side), torch.export.Dim.DYNAMIC
    program = torch.export.export(
        encoder.to(memory_format=torch.contiguous_format), (images,), dynamic_shapes=({0: count},)
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, path)


def features_of(encoder: nn.Module, side: int, device: torch.device) -> int:
    """Width of what an encoder gives for images of `side` × `side` pixels."""
    encoder.eval()
    with torch.no_grad():
        return encoder(torch.zeros(1, 3, side, side, device=device)).shape[1]
