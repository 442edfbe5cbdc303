"""Stage `finetune`: a pretrained encoder learns from few labels, and perhaps from images without.

    data/encoders/<run>, data/datasets/<dataset> (all of it), <teacher> →
        data/finetunes/<finetune>.json       scores
        data/classifiers/<finetune>/         the tuned network of each budget and draw, first pretraining seed

A cell is one budget, one draw of the budget and one pretraining seed; a finished cell survives a kill. Validation and
test are predicted once a cell, after its last step: nothing is chosen on them. Images without label are those of train
that pretraining may see.

    python -m stages.finetune simclr
"""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field

from pipeline import paths
from pipeline.errors import ParamsError
from pipeline.hardware import device_name
from pipeline.params import Count, Hardware, Name
from pipeline.plugins import Spec, plugin
from pipeline.scratch import write_atomically
from pipeline.stage import Stage
from pipeline.stage import run as run_stage
from stages.datasets._prepared import Prepared
from stages.encoders._input import preprocessed
from stages.encoders._model import CHUNK, Model
from stages.encoders._viewer import viewer
from stages.objectives._classifiers import keep, kept, pretrained
from stages.objectives._objective import Objective, Setting
from stages.probes._metrics import labels_in_words, pretrained_in_words, summarize
from stages.training.batches import Beside
from stages.training.checkpoints import Checkpoints
from stages.training.feed import Store, fetched, in_order, placed
from stages.training.loop import Images, Plan, Trainer, Training
from stages.training.randomness import derived, seeded
from stages.training.schedules import Schedule
from stages.views._draws import Source

SPLITS = ("train", "validation", "test")
Head = Literal["h", "projector.1", "projector.2"]


class Finetuning(Training):
    """At least `steps` optimizer steps, in whole epochs; `batch_size` labels a batch, or as many as the budget has."""

    steps: Count
    schedule: Schedule


class Cell(NamedTuple):
    """One fine-tuning: the draw of the budget it may use, the pretraining seed it starts from."""

    budget: str
    draw: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.grant}-seed-{self.seed}"

    @property
    def grant(self) -> str:
        return f"{self.budget}-draw-{self.draw}"


def finetune(
    stage: Stage,
    *,
    hardware: Hardware,
    run: Name,
    dataset: Name,
    objective: plugin("objectives"),  # type: ignore[valid-type]  # the annotation is made from the folder
    teacher: str,
    views: plugin("views"),  # type: ignore[valid-type]
    head: Head,
    training: Finetuning,
    budgets: Annotated[list[Name], Field(min_length=1)],
) -> None:
    """Fine-tune every cell and write accuracy, balanced accuracy and macro-F1 of each budget."""
    prepared, folder = Prepared(paths.dataset(dataset)), paths.encoder(run)
    prepared.require_labels()
    device = torch.device(device_name(hardware))
    beside, classifiers = unlabeled(prepared, objective), stage.scratch / "classifiers"
    scores: dict[str, Any] = {}
    with stage.device():
        store = placed(prepared.images, device)
        grid = {budget: cells_of(prepared, budget, folder) for budget in budgets}
        for budget, cells in grid.items():
            for cell in cells:
                done = stage.scratch / f"{cell.name}.json"
                if not done.exists():
                    with seeded(cell.seed, device):
                        model, tuned = start(folder, cell, head, objective, teacher, len(prepared.classes), device)
                        images = granted(prepared, cell, store, device, beside)
                        plan = plan_of(cell, images, training, views, model, hardware.precision)
                        require_views(plan, tuned, images, objective.name)
                        Trainer(tuned, images, plan, Checkpoints(stage.scratch / cell.name), stage).run()
                    outcome = predicted(tuned, model, prepared, store)
                    if cell.seed == cells[0].seed:
                        keep(classifiers, cell.grant, folder, tuned.result(), head, prepared.classes)
                    write_atomically(done, json.dumps(outcome).encode())
                shutil.rmtree(stage.scratch / cell.name, ignore_errors=True)
                stage.check()
            outcomes = [json.loads((stage.scratch / f"{cell.name}.json").read_text()) for cell in cells]
            protocol = (
                f"{taught(objective, beside, teacher)} from {head}, at least {training.steps} steps in whole epochs"
            )
            scores |= score(budget, outcomes, prepared, protocol)
            stage.log({f"finetune.{budget}.val": scores[f"finetune.{budget}.top1"]["val"]["mean"]})
    shutil.copytree(classifiers, stage.out(paths.classifiers(stage.item)))
    stage.out(paths.finetunes(stage.item)).write_text(json.dumps(scores, indent=1, sort_keys=True) + "\n")


def cells_of(prepared: Prepared, budget: str, folder: Path) -> list[Cell]:
    """All draws of a budget times all pretraining seeds; ParamsError for a budget without labels."""
    summary = prepared.budget_summary[budget]
    if empty := [draw for draw in summary if not summary[draw]["labels_used"]]:
        raise ParamsError(
            f"params.yaml: the budget {budget} of {prepared.folder.name} grants no label (seed {', '.join(empty)}) and "
            f"every objective needs some: give more images a label, or take a larger budget"
        )
    seeds = sorted(int(path.name.removeprefix("seed-")) for path in folder.glob("seed-*"))
    return [Cell(budget, draw, seed) for draw in sorted(map(int, summary)) for seed in seeds]


def start(
    folder: Path, cell: Cell, head: str, objective: Spec, teacher: str, classes: int, device: torch.device
) -> tuple[Model, Objective]:
    """The pretrained network under a fresh classifier; its teacher has learned from the same labels (a file: none)."""
    model, network, width = pretrained(folder, cell.seed, head)
    guide = None if teacher.endswith(".py") else kept(Path(teacher), cell.grant).to(device)
    tuned = objective.make(network, Setting(width, classes, guide)).to(device, memory_format=torch.channels_last)
    return model.to(device), tuned


def unlabeled(prepared: Prepared, objective: Spec) -> Beside | None:
    """The train images that pretraining may see, for an objective that asks for some; ParamsError if there are none."""
    ratio = objective.arguments.get("unlabeled")
    if ratio is None:
        return None
    rows = np.intersect1d(prepared.pretrain, prepared.rows("train"))
    if not len(rows):
        raise ParamsError(
            f"params.yaml: the objective {objective.name} needs images that it may see without label, and pretraining "
            f"may see no train image of {prepared.folder.name}: put train into its pretrain_on"
        )
    return Beside(torch.from_numpy(rows), ratio)


def taught(objective: Spec, beside: Beside | None, teacher: str) -> str:
    """The objective, and from what it learns besides labels, in words."""
    words = f"{objective.name} objective"
    words += "" if teacher.endswith(".py") else f" after {Path(teacher).name}"
    return words if beside is None else f"{words} beside {len(beside.rows):,} images without label"


def granted(prepared: Prepared, cell: Cell, store: Store, device: torch.device, beside: Beside | None) -> Images:
    """The images of the budget and their labels; every other label stays unknown."""
    rows = prepared.budget(cell.budget, cell.draw)
    labels = torch.full((len(store),), -1, dtype=torch.int64)
    labels[rows] = torch.from_numpy(prepared.labels[rows])
    return Images(store, labels.to(device), torch.from_numpy(rows), beside)


def require_views(plan: Plan, tuned: Objective, images: Images, name: str) -> None:
    """ParamsError unless the view policy gives as many views as the objective takes; their roles are checked before."""
    row, device = images.rows[:1], images.labels.device
    one = fetched(images.store, row, device)
    given = len(plan.make_views(one, Source(seed=0, epoch=0, index=row.to(device))))
    if given != len(tuned.views):
        raise ParamsError(
            f"params.yaml: the views of this finetune make {given} view(s) of an image and the objective {name} takes "
            f"{len(tuned.views)} ({', '.join(tuned.views)}): choose views that make {len(tuned.views)}"
        )


def plan_of(cell: Cell, images: Images, training: Finetuning, views: Spec, model: Model, precision: str) -> Plan:
    """Whole epochs that hold at least `steps` steps of batches that the budget can fill."""
    piece = training.batch_size // training.accumulate
    size = min(training.batch_size, len(images.rows))
    pieces = -(-size // piece)  # none is larger than the settings ask for
    size -= size % pieces
    epochs = -(-training.steps // (len(images.rows) // size))
    settings = training.model_copy(update={"batch_size": size, "accumulate": pieces})
    seed = derived("finetune", cell.draw, cell.seed)
    make_views = viewer(views, model)
    return Plan(cell.name, seed, epochs, settings, make_views, precision, None, None, training.schedule)


def predicted(tuned: Objective, model: Model, prepared: Prepared, store: Store) -> dict[str, list[int]]:
    """The class that the tuned network gives every labeled image of validation and test."""
    result = tuned.result().eval()
    outcome = {}
    for split in ("validation", "test"):
        rows = torch.from_numpy(prepared.labeled(split))
        with torch.inference_mode():
            parts = in_order(store, rows, CHUNK, model.mean.device)
            guesses = [result(preprocessed(model, part)).argmax(1).cpu() for part in parts]
            outcome[split] = torch.cat(guesses).tolist()
    return outcome


def score(budget: str, outcomes: list[dict], prepared: Prepared, protocol: str) -> dict[str, Any]:
    """`finetune.<budget>.{top1,balanced_accuracy,macro_f1}` over the cells."""
    draws = prepared.budget_summary[budget]
    counts = [draw["labels_used"] for draw in draws.values()]
    cells = f"{len(draws)} draws × {len(outcomes) // len(draws)} seeds"
    seen = pretrained_in_words(prepared.pretrain, {split: prepared.rows(split) for split in SPLITS})
    sentence = f"{protocol}, {labels_in_words(counts)}, {cells}, last step{seen}"
    splits = {
        name: (prepared.labels[prepared.labeled(split)], np.array([outcome[split] for outcome in outcomes]))
        for name, split in (("val", "validation"), ("test", "test"))
    }
    groups = prepared.groups[prepared.labeled("test")]
    scores = summarize(splits, sentence, max(counts), groups)
    return {f"finetune.{budget}.{name}": value for name, value in scores.items()}


if __name__ == "__main__":
    run_stage(finetune)
