"""Stage `pretrain`: train an encoder, once a seed.

data/datasets/<dataset>/{images, pretrain/<sees>.parquet}, <init> → data/encoders/<run>/
    model.py encoder.py config.json           how to build and call the encoder
    seed-<k>/{encoder,projector}.safetensors  what was learned
    seed-<k>/curves.csv                       loss and learning rate, a row an epoch

python -m stages.pretrain simclr
"""

import csv
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pipeline import paths
from pipeline.errors import MissingInput, ParamsError
from pipeline.hardware import device_name
from pipeline.params import Block, Count, Hardware, Name, Positive, Seeds
from pipeline.plugins import Spec, plugin
from pipeline.stage import Stage, run
from stages.datasets._prepared import Prepared
from stages.encoders import _export
from stages.encoders._initial import initialized
from stages.encoders._input import preprocessed, trimmed
from stages.encoders._model import CHUNK, Model
from stages.encoders._viewer import viewer
from stages.methods._method import Method, Setting
from stages.networks.gathering import ranks
from stages.networks.normalization import SharedBatchNorm, share_normalization
from stages.training import guards
from stages.training.checkpoints import Checkpoints
from stages.training.distributed import joined
from stages.training.feed import fetched, in_order, placed
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
    init: str,
    input: Input,  # noqa: A002  # the key of params.yaml
    training: Pretraining,
    seeds: Seeds,
) -> None:
    """Train every seed and write what it learned; the module docstring lists the files."""
    device = torch.device(device_name(hardware))
    prepared = Prepared(paths.dataset(dataset))
    out = stage.out(paths.encoder(stage.item))
    with stage.device(shared=training.epochs > 0), joined(device):
        images = visible(prepared, sees, device)
        for seed in seeds:
            with seeded(seed, device):
                model, learner = build(
                    encoder, init, method, input, images, training.batch_size // training.accumulate, sees
                )
                if hardware.compile:
                    compile_encoder(learner, device)
                _export.write(out, encoder, model.config)
                plan = Plan(
                    name=f"seed-{seed}",
                    seed=seed,
                    epochs=training.epochs,
                    settings=training,
                    make_views=viewer(views, model),
                    precision=hardware.precision,
                    look=watch(model, prepared, training.monitor_epochs),
                    plain=partial(plain, model, images),
                )
                require_views(plan, learner, images, method.name)
                curves = fit(stage, learner, model, images, plan)
                save(out / f"seed-{seed}", learner, curves)


def visible(prepared: Prepared, sees: str, device: torch.device) -> Images:
    """The images, with the rows and labels that the run may see."""
    labels = torch.full((len(prepared.images),), -1, dtype=torch.int64)
    rows = prepared.pretrain
    if sees == "labels":
        rows, known = prepared.pretrain_labels
        labels[rows] = torch.from_numpy(known)
    return Images(placed(prepared.images, device), labels.to(device), torch.from_numpy(rows))


def build(
    encoder: Spec, init: str, method: Spec, view: Input, images: Images, batch_size: int, sees: str
) -> tuple[Model, Method]:
    """The encoder as it starts, as a model, and the method that trains it."""
    device = images.labels.device
    network, features = initialized(encoder, init, view.side, device)
    classes = int(images.labels.max()) + 1
    learner = method.make(network, Setting(features, len(images.labels), images.rows, classes, batch_size))
    config = _export.describe(encoder, features, view.side, view.mean, view.std)
    if learner.projector is not None:
        config["projector"] = method.arguments["projector"].model_dump()
    learner.to(device, memory_format=torch.channels_last)
    if ranks() > 1:
        share_normalization(learner)
    return Model(network, config).to(device), learner


def compile_encoder(learner: Method, device: torch.device) -> None:
    """Let torch.compile make the encoder's kernels for training, on a GPU as CUDA graphs; other bits may come out."""
    for layer in learner.encoder.modules():
        if isinstance(layer, SharedBatchNorm):  # messages between ranks stay outside
            layer.forward = torch.compiler.disable(layer.forward)  # type: ignore[method-assign]
    from torch._inductor import config as inductor  # a second that only this needs

    inductor.deterministic = torch.are_deterministic_algorithms_enabled()  # no kernel is chosen by its time
    mode = "reduce-overhead" if device.type == "cuda" else None
    if mode:
        learner.register_forward_pre_hook(lambda *_: torch.compiler.cudagraph_mark_step_begin())
    eager = learner.encoder.forward
    compiled = torch.compile(eager, mode=mode, dynamic=False)

    def forward(images: Tensor) -> Tensor:
        return compiled(images) if learner.encoder.training else eager(images)

    learner.encoder.forward = forward


def plain(model: Model, images: Images) -> Iterator[Tensor]:
    """All images the run may see, in order: resized and normalized, without augmentation."""
    parts = in_order(images.store, images.rows, CHUNK, images.labels.device)
    return (preprocessed(model, part) for part in parts)


def require_views(plan: Plan, learner: Method, images: Images, name: str) -> None:
    """ParamsError unless the view policy gives as many views as the method compares, two large ones first."""
    row, device = images.rows[:1], images.labels.device
    one = fetched(images.store, row, device)
    views = plan.make_views(one, Source(seed=0, epoch=0, index=row.to(device)))
    given = len(views)
    taken = learner.views if isinstance(learner.views, range) else range(learner.views, learner.views + 1)
    if given not in taken:
        wanted = f"{taken[0]} to {taken[-1]}" if len(taken) > 1 else f"{taken[0]}"
        raise ParamsError(
            f"params.yaml: the views of this run make {given} view(s) of an image and the method {name} compares "
            f"{wanted}: choose views that make {wanted}"
        )
    if len(taken) > 1 and views[0].shape != views[1].shape:
        first, second = (view.shape[-1] for view in views[:2])
        raise ParamsError(
            f"params.yaml: the first two views of this run have {first} and {second} pixels a side and the method "
            f"{name} compares two large ones before the small ones: choose views that make two large ones"
        )


def fit(stage: Stage, learner: Method, model: Model, images: Images, plan: Plan) -> Curves:
    """Train, unless there is nothing to train; a collapse is said aloud."""
    if plan.epochs == 0:
        return []
    curves = Trainer(learner, images, plan, Checkpoints(stage.scratch / plan.name), stage).run()
    learner.eval()
    some = torch.from_numpy(spaced(images.rows.numpy()))
    features = [model(trimmed(part)) for part in in_order(images.store, some, CHUNK, images.labels.device)]
    if warning := guards.collapse_warning(plan.name, guards.spread(torch.cat(features))):
        print(warning, flush=True)
    return curves


def watch(model: Model, prepared: Prepared, every: int) -> Callable[[int], dict[str, float]] | None:
    """The live monitor, or None if it is off or the data set has no labels to look with."""
    if not every:
        return None
    try:
        bank, queries = (spaced(prepared.labeled(split)) for split in ("train", "validation"))
    except MissingInput:  # the labels are no dependency of this stage
        return None
    if not len(bank) or not len(queries):
        return None

    def part(rows: np.ndarray) -> tuple[Tensor, Tensor]:
        device = model.mean.device
        parts = in_order(prepared.images, torch.from_numpy(rows), CHUNK, device)
        images = torch.cat([preprocessed(model, part) for part in parts])
        return images, torch.from_numpy(prepared.labels[rows]).to(device)

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
