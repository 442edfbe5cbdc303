"""Initial weights: as the encoder's own file makes them, or from a file of weights with timm's or torchvision's names.

A checkpoint may hold more than an encoder, and hold it anywhere: {"state_dict": {"module.encoder_q.conv1.weight": …}}.
Written with dots, the names of one encoder share a prefix, which is found as the one under which most of its names are.
"""

import argparse
import pickle
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import ParamsError
from pipeline.plugins import Spec
from stages.encoders._export import features_of

FEW = 4  # names that a sentence quotes
COUNTERS = "num_batches_tracked"  # of batch normalization; old files lack them and nothing reads them
# parts beside an encoder that files keep under its prefix
BESIDE = re.compile(r"(fc|heads?|head_dist|classifier|projector|predictor|prototypes|decoder_\w+|mask_token)(\.|$)")


def initialized(encoder: Spec, init: str, side: int, device: torch.device) -> tuple[nn.Module, int]:
    """The encoder on the device with the weights of `init`, and the width of its features.

    ParamsError for arguments, an image size or weights that do not go together.
    """
    try:
        network = encoder.make()
        features = features_of(network, side, torch.device("cpu"))
    except (ImportError, ValueError, AssertionError, RuntimeError) as error:  # the last two: timm, torch on the size
        raise ParamsError(f"params.yaml: the encoder {encoder.name} with input.side {side}: {error}") from error
    if not init.endswith(".py"):
        left_out = load(network, Path(init))
        print(f"weights from {init}" + (f" without its {left_out}" if left_out else ""), flush=True)
    return network.to(device), features


def load(network: nn.Module, path: Path) -> str:
    """Load the weights of a file into `network`; what of the file was left out, "fc (2), queue (1)" tensors.

    ParamsError for a file that lacks a weight, has one of another shape or more than this encoder has.
    """
    given, own = read(path), network.state_dict()
    prefix = _prefix(given, own)
    found = {name.removeprefix(prefix): tensor for name, tensor in given.items() if name.startswith(prefix)}
    found = {name: own[name] for name in own if name.endswith(COUNTERS)} | found
    shapes = [name for name in own if name in found and found[name].shape != own[name].shape]
    complaints = [
        *_listed("it lacks", [name for name in own if name not in found]),
        *_listed("it has besides", [name for name in found if name not in own and not BESIDE.match(name)]),
        *_listed("of another shape are", [f"{n} {_shape(found[n])} for {_shape(own[n])}" for n in shapes]),
    ]
    if complaints:
        where = f" (looked for under {prefix[:-1]!r})" if prefix else ""
        raise ParamsError(
            f"params.yaml: init: {path} does not fit the encoder{where}: {'; '.join(complaints)}. Name and arguments "
            f"of `encoder` must be those of the network that the weights were trained in"
        )
    network.load_state_dict({name: found[name] for name in own})
    rest = [name for name in given if not name.startswith(prefix) or name.removeprefix(prefix) not in own]
    parts = Counter(_parting(name, prefix) for name in rest)
    return ", ".join(f"{part} ({count})" for part, count in parts.items())


def read(path: Path) -> dict[str, Tensor]:
    """Every tensor of a .safetensors, .pth or .pt file on the host; nested names are joined by dots."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options that many keep beside the weights
            return dict(_tensors("", torch.load(path, "cpu", weights_only=True)))
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        raise ParamsError(
            f"params.yaml: init: {path} cannot be read as weights and nothing else: where you trust it, save its "
            f"state_dict with safetensors.torch.save_file"
        ) from error


def _tensors(name: str, content: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _tensors(f"{name}.{key}" if name else str(key), value)


def _prefix(given: Iterable[str], own: Iterable[str]) -> str:
    """The prefix under which most of the names of `own` are.

    Of equals a teacher, which DINO evaluates; else the first in the file: the trained network of MoCo and BYOL.
    """
    names, counts = set(own), Counter[str]()
    for name in given:
        steps = name.split(".")
        tails = (".".join(steps[k:]) for k in range(len(steps)))
        counts.update(name[: len(name) - len(tail)] for tail in tails if tail in names)
    return max(counts, key=lambda prefix: (counts[prefix], "teacher" in prefix), default="")


def _parting(name: str, prefix: str) -> str:
    """The first part of a name that is not in the prefix."""
    return next(a for a, b in zip_longest(name.split("."), prefix[:-1].split(".")) if a != b)


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return [f"{what} {', '.join(names[:FEW])}{more}"]
