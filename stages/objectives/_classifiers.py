"""What fine-tuning starts from and what it leaves: an encoder, perhaps the first layers of its projector, a classifier.

    data/encoders/<run>/       model.py encoder.py config.json seed-<k>/{encoder,projector}.safetensors
    data/classifiers/<name>/   model.py encoder.py config.json <budget>-draw-<d>/{encoder,head}.safetensors

A network is always the sequence of its encoder and those layers, which may be none. config.json of a classifier also
says which layers, and the classes.
"""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from pipeline.errors import ParamsError
from stages.encoders import _model
from stages.encoders._export import save_weights
from stages.encoders._model import Model
from stages.networks.heads import Projection, Projector, classifier


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
    save_weights(nn.Sequential(layers, linear), folder / name / "head.safetensors")


def kept(folder: Path, name: str) -> nn.Module:
    """What `keep` wrote, from normalized images to class scores, in eval mode."""
    model = _model.load(folder, f"{name}/encoder.safetensors")
    _, layers, width = _layers(model, model.config["head"])
    head = nn.Sequential(layers, classifier(width, len(model.config["classes"])))
    head.load_state_dict(load_file(folder / name / "head.safetensors"))
    return nn.Sequential(model.encoder, head).eval()


def _layers(model: Model, head: str) -> tuple[Projector | None, nn.Module, int]:
    """The projector, fresh, the layers of it that `head` keeps, and their width; none for h."""
    if head == "h":
        return None, nn.Sequential(), model.features
    projection = Projection(**model.config["projector"])
    projector, count = Projector(model.features, projection), int(head.rpartition(".")[2])
    return projector, projector.first(count), projection.hidden if count < projection.layers else projection.out
