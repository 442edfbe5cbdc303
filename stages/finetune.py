"""Stage `finetune`: a pretrained encoder learns from few labels.

    data/encoders/<run>, data/datasets/<dataset> (all of it) → data/finetunes/<finetune>.json

A cell is one budget, one draw of the budget and one pretraining seed; a finished cell survives a kill. Validation and
test are predicted once a cell, after its last step: nothing is chosen on them.

    python -m stages.finetune simclr
"""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import nn

from pipeline import paths
from pipeline.errors import ParamsError
from pipeline.hardware import device_name
from pipeline.params import Count, Hardware, Name
from pipeline.plugins import Spec, plugin
from pipeline.scratch import write_atomically
from pipeline.stage import Stage
from pipeline.stage import run as run_stage
from stages.datasets._prepared import Prepared
from stages.encoders import _model
from stages.encoders._input import preprocessed
from stages.encoders._viewer import viewer
from stages.networks.heads import Projection, Projector
from stages.objectives._objective import Objective
from stages.probes._metrics import summarize
from stages.training.checkpoints import Checkpoints
from stages.training.feed import Store, in_order, placed
from stages.training.loop import Images, Plan, Trainer, Training
from stages.training.randomness import derived, seeded

Head = Literal["h", "projector.1", "projector.2"]


class Finetuning(Training):
    """At least `steps` optimizer steps, in whole epochs; a batch is never larger than the budget."""

    steps: Count


class Cell(NamedTuple):
    """One fine-tuning: the draw of the budget it may use, the pretraining seed it starts from."""

    budget: str
    draw: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.budget}-draw-{self.draw}-seed-{self.seed}"


def finetune(
    stage: Stage,
    *,
    hardware: Hardware,
    run: Name,
    dataset: Name,
    objective: plugin("objectives"),  # type: ignore[valid-type]  # the annotation is made from the folder
    views: plugin("views"),  # type: ignore[valid-type]
    head: Head,
    training: Finetuning,
    budgets: Annotated[list[Name], Field(min_length=1)],
) -> None:
    """Fine-tune every cell and write accuracy, balanced accuracy and macro-F1 of each budget."""
    prepared, folder = Prepared(paths.dataset(dataset)), paths.encoder(run)
    device = torch.device(device_name(hardware))
    scores: dict[str, Any] = {}
    with stage.device():
        store = placed(prepared.images, device)
        for budget in budgets:
            cells = cells_of(prepared, budget, folder)
            for cell in cells:
                done = stage.scratch / f"{cell.name}.json"
                if not done.exists():
                    with seeded(cell.seed, device):
                        model, tuned = start(folder, cell.seed, head, objective, len(prepared.classes), device)
                        images = granted(prepared, cell, store, device)
                        plan = plan_of(cell, images, training, views, model, hardware.precision)
                        Trainer(tuned, images, plan, Checkpoints(stage.scratch / cell.name), stage).run()
                    shutil.rmtree(stage.scratch / cell.name)
                    write_atomically(done, json.dumps(predicted(tuned, model, prepared, store)).encode())
                stage.check()
            outcomes = [json.loads((stage.scratch / f"{cell.name}.json").read_text()) for cell in cells]
            protocol = f"{objective.name} objective from {head}, at least {training.steps} steps in whole epochs"
            scores |= score(budget, outcomes, prepared, protocol)
            stage.log({f"finetune.{budget}.val": scores[f"finetune.{budget}.top1"]["val"]["mean"]})
    stage.out(paths.finetunes(stage.item)).write_text(json.dumps(scores, indent=1, sort_keys=True) + "\n")


def cells_of(prepared: Prepared, budget: str, folder: Path) -> list[Cell]:
    """All draws of a budget times all pretraining seeds."""
    draws = sorted(map(int, prepared.budget_summary[budget]))
    seeds = sorted(int(path.name.removeprefix("seed-")) for path in folder.glob("seed-*"))
    return [Cell(budget, draw, seed) for draw in draws for seed in seeds]


def start(
    folder: Path, seed: int, head: str, objective: Spec, classes: int, device: torch.device
) -> tuple[_model.Model, Objective]:
    """The pretrained network under a fresh classifier: the encoder, or the encoder with its first projector layers."""
    model = _model.load(folder, f"seed-{seed}/encoder.safetensors")
    network, features = model.encoder, model.features
    if head != "h":
        if "projector" not in model.config:
            raise ParamsError(
                f"params.yaml: head: {head}: the run in {folder} has no projector; its head can only be h"
            )
        projection = Projection(**model.config["projector"])
        projector = Projector(features, projection)
        projector.load_state_dict(load_file(folder / f"seed-{seed}" / "projector.safetensors"))
        layers = int(head.rpartition(".")[2])
        network = nn.Sequential(network, projector.first(layers))
        features = projection.hidden if layers < projection.layers else projection.out
    tuned = objective.make(network, features, classes).to(device, memory_format=torch.channels_last)
    return model.to(device), tuned


def granted(prepared: Prepared, cell: Cell, store: Store, device: torch.device) -> Images:
    """The images of the budget and their labels; every other label stays unknown."""
    rows = prepared.budget(cell.budget, cell.draw)
    labels = torch.full((len(store),), -1, dtype=torch.int64)
    labels[rows] = torch.from_numpy(prepared.labels[rows])
    return Images(store, labels.to(device), torch.from_numpy(rows))


def plan_of(cell: Cell, images: Images, training: Finetuning, views: Spec, model: _model.Model, precision: str) -> Plan:
    """Whole epochs that hold at least `steps` steps of batches that the budget can fill."""
    piece = training.batch_size // training.accumulate
    size = min(training.batch_size, len(images.rows))
    pieces = -(-size // piece)  # none is larger than the settings ask for
    size -= size % pieces
    epochs = -(-training.steps // (len(images.rows) // size))
    settings = training.model_copy(update={"batch_size": size, "accumulate": pieces})
    seed = derived("finetune", cell.draw, cell.seed)
    return Plan(cell.name, seed, epochs, settings, viewer(views, model), precision, look=None, plain=None)


def predicted(tuned: Objective, model: _model.Model, prepared: Prepared, store: Store) -> dict[str, list[int]]:
    """The class that the tuned network gives every labelled image of validation and test."""
    tuned.eval()
    outcome = {}
    for split in ("validation", "test"):
        rows = torch.from_numpy(prepared.labelled(split))
        with torch.inference_mode():
            parts = in_order(store, rows, _model.CHUNK, model.mean.device)
            guesses = [tuned.logits(preprocessed(model, part)).argmax(1).cpu() for part in parts]
            outcome[split] = torch.cat(guesses).tolist()
    return outcome


def score(budget: str, outcomes: list[dict], prepared: Prepared, protocol: str) -> dict[str, Any]:
    """`finetune.<budget>.{top1,balanced_accuracy,macro_f1}` over the cells."""
    draws = prepared.budget_summary[budget]
    used = max(draw["labels_used"] for draw in draws.values())
    sentence = f"{protocol}, {used} labels, {len(draws)} draws × {len(outcomes) // len(draws)} seeds, last step"
    splits = {
        name: (prepared.labels[prepared.labelled(split)], np.array([outcome[split] for outcome in outcomes]))
        for name, split in (("val", "validation"), ("test", "test"))
    }
    groups = prepared.hashes[prepared.labelled("test")]  # images that are the same are drawn together
    return {f"finetune.{budget}.{name}": value for name, value in summarize(splits, sentence, used, groups).items()}


if __name__ == "__main__":
    run_stage(finetune)
