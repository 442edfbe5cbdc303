"""Stage `pretrain`: train an encoder, once a seed.

data/datasets/<dataset>/{images, pretrain/<sees>.parquet} → data/encoders/<run>/
    model.py encoder.py config.json           how to build and call the encoder
    seed-<k>/{encoder,projector}.safetensors  what was learned
    seed-<k>/curves.csv                       loss and learning rate, a row an epoch

python -m stages.pretrain simclr
"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pipeline import paths
from pipeline.errors import MissingInput, ParamsError
from pipeline.params import Block, Count, Hardware, Name, Positive, Seeds
from pipeline.plugins import Spec, plugin
from pipeline.stage import Stage, device_name, run
from stages.datasets._prepared import Prepared
from stages.encoders import _export
from stages.encoders._model import Model
from stages.encoders._viewer import viewer
from stages.methods._method import Method, Setting
from stages.training import guards
from stages.training.checkpoints import Checkpoints
from stages.training.loop import Curves, Images, Plan, Trainer, Training
from stages.training.monitor import Look, look, spaced
from stages.training.randomness import seeded
from stages.views._draws import Source


class Input(Block):
    """What the encoder sees: square images of `side` × `side` pixels, normalized per channel."""

    side: Count
    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]


class Pretraining(Training):
    """`epochs` over the images it may see; a look with the monitor every `monitor_epochs` (0: never)."""

    epochs: Annotated[int, Field(ge=0)]
    monitor_epochs: Annotated[int, Field(ge=0)]


def pretrain(
    stage: Stage,
    *,
    hardware: Hardware,
    dataset: Name,
    sees: Literal["images", "labels"],
    method: plugin("methods"),  # type: ignore[valid-type]  # the annotation is made from the folder
    views: plugin("views"),  # type: ignore[valid-type]
    encoder: plugin("encoders"),  # type: ignore[valid-type]
    input: Input,  # noqa: A002  # the key of params.yaml
    training: Pretraining,
    seeds: Seeds,
) -> None:
    """Train every seed and write what it learned; the module docstring lists the files."""
    device = torch.device(device_name(hardware))
    prepared = Prepared(paths.dataset(dataset))
    images = visible(prepared, sees, device)
    out = stage.out(paths.encoder(stage.item))
    with stage.device():
        for seed in seeds:
            with seeded(seed):
                model, learner = build(encoder, method, input, images, training.batch_size, sees)
                _export.write(out, encoder, model.config)
                plan = Plan(
                    name=f"seed-{seed}",
                    seed=seed,
                    epochs=training.epochs,
                    settings=training,
                    make_views=viewer(views, model),
                    precision=hardware.precision,
                    look=watch(model, prepared, training.monitor_epochs),
                )
                require_views(plan, learner, images, method.name)
                curves = fit(stage, learner, model, images, plan)
                save(out / f"seed-{seed}", learner, curves)


def visible(prepared: Prepared, sees: str, device: torch.device) -> Images:
    """The images on the device, with the rows and labels that the run may see."""
    labels = torch.full((len(prepared.pixels),), -1, dtype=torch.int64)
    rows = prepared.pretrain
    if sees == "labels":
        rows, known = prepared.pretrain_labels
        labels[rows] = torch.from_numpy(known)
    return Images(torch.from_numpy(np.array(prepared.pixels)).to(device), labels.to(device), torch.from_numpy(rows))


def build(encoder: Spec, method: Spec, view: Input, images: Images, batch_size: int, sees: str) -> tuple[Model, Method]:
    """Fresh weights: the encoder as a model, and the method that trains it."""
    device = images.pixels.device
    network = encoder.make().to(device)
    features = _export.features_of(network, view.side, device)
    learner = method.make(network, Setting(features, len(images.pixels), int(images.labels.max()) + 1, batch_size))
    if learner.needs_labels and sees != "labels":
        raise ParamsError(f"params.yaml: the method {method.name} needs labels: set `sees: labels` in its run")
    config = _export.describe(encoder, features, view.side, view.mean, view.std)
    if learner.projector is not None:
        config["projector"] = method.arguments["projector"].model_dump()
    learner.to(device, memory_format=torch.channels_last)
    return Model(network, config).to(device), learner


def require_views(plan: Plan, learner: Method, images: Images, name: str) -> None:
    """ParamsError unless the view policy gives as many views as the method compares."""
    row = images.rows[:1].to(images.pixels.device)
    given = len(plan.make_views(images.pixels[row], Source(seed=0, epoch=0, index=row)))
    if given != learner.views:
        raise ParamsError(
            f"params.yaml: the views of this run make {given} view(s) of an image and the method {name} compares "
            f"{learner.views}: choose views that make {learner.views}"
        )


def fit(stage: Stage, learner: Method, model: Model, images: Images, plan: Plan) -> Curves:
    """Train, unless there is nothing to train; a collapse is said aloud."""
    if plan.epochs == 0:
        return []
    curves = Trainer(learner, images, plan, Checkpoints(stage.scratch / plan.name), stage).run()
    learner.eval()
    some = torch.from_numpy(spaced(images.rows.numpy())).to(images.pixels.device)
    if warning := guards.collapse_warning(plan.name, guards.spread(model(images.pixels[some]))):
        print(warning, flush=True)
    return curves


def watch(model: Model, prepared: Prepared, every: int) -> Callable[[int], dict[str, float]] | None:
    """The live monitor, or None if it is off or the data set has no labels to look with."""
    if not every:
        return None
    try:
        bank, queries = (spaced(prepared.labelled(split)) for split in ("train", "validation"))
    except MissingInput:  # the labels are no dependency of this stage
        return None
    if not len(bank) or not len(queries):
        return None

    def part(rows: np.ndarray) -> tuple[Tensor, Tensor]:
        labels = torch.from_numpy(prepared.labels[rows]).to(model.mean.device)
        return model.preprocess(torch.from_numpy(prepared.pixels[rows])), labels

    images = Look(*part(bank), *part(queries))
    return lambda epoch: look(model.encoder, images) if (epoch + 1) % every == 0 else {}


def save(folder: Path, learner: Method, curves: Curves) -> None:
    """What was learned: encoder, projector if the method has one, curves."""
    folder.mkdir(exist_ok=True)
    _export.save_weights(learner.encoder, folder / "encoder.safetensors")
    if learner.projector is not None:
        _export.save_weights(learner.projector, folder / "projector.safetensors")
    with (folder / "curves.csv").open("w", newline="") as file:
        columns: list[str] = list(curves[0]) if curves else ["epoch", "learning_rate", "loss"]
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _short(value) for name, value in row.items()} for row in curves)


def _short(value: Any) -> Any:
    return f"{value:.8g}" if isinstance(value, float) else value


if __name__ == "__main__":
    run(pretrain)
