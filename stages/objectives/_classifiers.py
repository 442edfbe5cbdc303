"""What fine-tuning starts from and what it leaves: an encoder, perhaps the first layers of its projector, a classifier.

    data/encoders/<run>/       model.py encoder.py config.json seed-<k>/{encoder,projector}.safetensors
    data/classifiers/<name>/   model.py encoder.py config.json <budget>-draw-<d>/{encoder,head}.safetensors

A network is always the sequence of its encoder and those layers, which may be none. What is left of them and of the
classifier is linear layers with ReLU between, which need no code of this project: model.py has `load_classifier`.
config.json of a classifier also says which layers it began with, and the classes.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import ParamsError
from stages.encoders import _model
from stages.encoders._export import save_weights
from stages.encoders._model import Model
from stages.networks.heads import Projection, Projector


def pretrained(folder: Path, seed: int, head: str) -> tuple[Model, nn.Sequential, int]:
    """The encoder of a run, the network that starts with it, and the width of what that gives.

    ParamsError if the run has no projector and `head` is a layer of it.
    """
    model = _model.load(folder, f"seed-{seed}/encoder.safetensors")
    if head != "h" and "projector" not in model.config:
        raise ParamsError(f"params.yaml: head: {head}: the run in {folder} has no projector; its head can only be h")
    projector, layers, width = _layers(model, head)
    if projector is not None:
        projector.load_state_dict(load_file(folder / f"seed-{seed}" / "projector.safetensors"))
    return model, nn.Sequential(model.encoder, layers), width


def keep(folder: Path, name: str, run: Path, result: nn.Module, head: str, classes: list[str]) -> None:
    """Write what became of a network of `run`, and its classifier, as `name`."""
    network, linear = result.children()
    encoder, layers = network.children()
    (folder / name).mkdir(parents=True, exist_ok=True)
    for file in ("model.py", "encoder.py"):
        shutil.copyfile(run / file, folder / file)
    config = json.loads((run / "config.json").read_text()) | {"head": head, "classes": classes}
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    save_weights(encoder, folder / name / "encoder.safetensors")
    save_weights(folded(nn.Sequential(layers, linear)), folder / name / "head.safetensors")


def kept(folder: Path, name: str) -> nn.Module:
    """What `keep` wrote, from normalized images to class scores, in eval mode."""
    found = _model.load_classifier(folder, name)
    return nn.Sequential(found.model.encoder, found.head).eval()


@torch.no_grad()
def folded(head: nn.Module) -> nn.Sequential:
    """The same function in eval mode as linear layers with ReLU between: batch normalization becomes part of them."""
    layers: list[tuple[Tensor, Tensor]] = []
    now: tuple[Tensor, Tensor] | None = None
    for part in head.modules():
        if isinstance(part, nn.Linear):
            weight = part.weight.double()
            shift = torch.zeros_like(weight[:, 0]) if part.bias is None else part.bias.double()
            now = (weight, shift) if now is None else (weight @ now[0], weight @ now[1] + shift)
        elif isinstance(part, nn.BatchNorm1d) and now is not None:
            mean, variance = part.running_mean, part.running_var
            assert mean is not None
            assert variance is not None
            scale = part.weight.double() / (variance.double() + part.eps).sqrt()
            now = scale[:, None] * now[0], scale * (now[1] - mean) + part.bias
        elif isinstance(part, nn.ReLU) and now is not None:
            layers.append(now)
            now = None
    assert now is not None
    pairs = enumerate([*layers, now])
    named = {
        f"{2 * k}.{name}": each.float()
        for k, pair in pairs
        for name, each in zip(("weight", "bias"), pair, strict=True)
    }
    return _model.build_head(named)


def _layers(model: Model, head: str) -> tuple[Projector | None, nn.Module, int]:
    """The projector, fresh, the layers of it that `head` keeps, and their width; none for h."""
    if head == "h":
        return None, nn.Sequential(), model.features
    projection = Projection(**model.config["projector"])
    projector, count = Projector(model.features, projection), int(head.rpartition(".")[2])
    return projector, projector.first(count), projection.hidden if count < projection.layers else projection.out
