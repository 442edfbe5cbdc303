"""What a survey of a folder found → a study of it: recipes/folder/params.yaml with other values, its comments kept.

The sizes aim at a first run within the hour, on two CPU cores or on a recent GPU. They are not tuned.
"""

import math
import re
from dataclasses import dataclass

from pipeline.drafting.survey import Survey, middle
from pipeline.drafting.template import filled, scalar

IMAGES = "images"  # the data set of recipes/folder
SHARE, OWN = 0.2, 0.1  # of validation, and of test; of validation where the test images are the source's
PACKED = 96  # pixels: images whose short sides are at most that are kept as pixels
KEPT = 256  # pixels of the short side of images that are kept encoded
RISK = 0.05  # that a split leaves a class without a train label, or a part without any: nothing could be judged
FEW_EPOCHS, MANY_EPOCHS = 20, 200
CPU_WORK, GPU_WORK = 4e8, 2e11  # pixels of all images that go through pretraining
CIFAR_STEM = 16  # times the work of a pixel behind ImageNet's stem
SMALL = "{ name: small_resnet, width: 16, blocks: 1 } # on a GPU rather { name: resnet, depth: 18, … }"
PERCENT = {
    "1pct": "{ name: balanced, share: 0.01 }, seeds: [0, 1, 2]",
    "10pct": "{ name: balanced, share: 0.10 }, seeds: [0, 1, 2]",
}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the study is to run on."""

    gpu: bool
    cores: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is decided."""

    gpu: bool
    threads: int
    side: int
    encoder: str
    subset: int | None
    train: int  # images that pretraining learns from, about
    epochs: int
    batch: int
    each: float  # labels of a class that train images have, about
    budgets: dict[str, str]  # name → its block
    bad: float  # share of files that need not be images
    unjudged: str | None  # why nothing is judged by classes


def plan(found: Survey, machine: Machine) -> Plan:
    """Sizes, budgets and gates that fit what was found."""
    validation, test = _shares(found)
    share = (found.parts.get("train", 0) / found.files if found.parts else 1) * (1 - validation - test)
    side, encoder, passes = _network(found, machine, found.files * share)
    within = machine.gpu or passes >= FEW_EPOCHS * found.files * share
    subset = None if within else int(passes / FEW_EPOCHS / share)
    train = max(1, round((subset or found.files) * share))
    each = found.labeled / found.files * train / max(1, len(found.labels))
    unjudged = _unjudged(found, subset)
    return Plan(
        gpu=machine.gpu,
        threads=min(machine.cores, 4 if machine.gpu else 8),
        side=side,
        encoder=encoder,
        subset=subset,
        train=train,
        epochs=min(max(FEW_EPOCHS, int(passes / train)), MANY_EPOCHS),
        batch=max(4, min(256, 2 ** ((train // 4).bit_length() - 1))),
        each=each,
        budgets={} if unjudged else _budgets(each),
        bad=_bad(found),
        unjudged=unjudged,
    )


def draft(template: str, found: Survey, decided: Plan, name: str, path: str) -> str:
    """The text of params.yaml of the study `name`, whose images are in `path`."""
    values = {"study": name} | _dataset(found, decided, path) | _pretraining(found, decided) | _judging(decided)
    text = filled(template, values)
    text = re.sub(rf"^  {IMAGES}:", f"  {name}:", text, count=1, flags=re.M)
    text = text.replace(f"dataset: {IMAGES}\n", f"dataset: {name}\n")
    head = f"# The images of {path}: drafted by `contrail use folder` from what it found there, yours to edit.\n"
    return head + text[text.index("study:") :]


# the values of params.yaml


def _dataset(found: Survey, decided: Plan, path: str) -> dict[str, str]:
    here = f"datasets.{IMAGES}"
    budgets = [f"\n      {budget}: {{ select: {how} }}" for budget, how in decided.budgets.items()]
    return {
        f"{here}.source.path": scalar(path),
        f"{here}.source.store": _store(found),
        f"{here}.source.labels": scalar(found.source["labels"]),
        f"{here}.source.group": scalar(found.source["group"]),
        f"{here}.source.split": scalar(found.source["split"]),
        f"{here}.subset": scalar(decided.subset),
        f"{here}.split": _split(found),
        f"{here}.quality.bad": f"{decided.bad:g}",
        f"{here}.budgets": "".join(budgets) or "{} # none: nothing is judged by classes",
    }


def _pretraining(found: Survey, decided: Plan) -> dict[str, str]:
    run = "runs.simclr"
    kernel = max(3, decided.side // 20 * 2 + 1)
    values = {
        f"{run}.views.blur": f"{{ probability: {0.5 * (decided.side > 32)}, kernel: {kernel}, sigma: [0.1, 2.0] }}",
        f"{run}.encoder": decided.encoder,
        f"{run}.input.side": scalar(decided.side),
        f"{run}.input.mean": _numbers(found.mean),
        f"{run}.input.std": _numbers(found.std),
        f"{run}.training.epochs": scalar(decided.epochs),
        f"{run}.training.batch_size": scalar(decided.batch),
        f"{run}.training.monitor_epochs": "0" if decided.unjudged else "10",
        "hardware.threads": scalar(decided.threads),
    }
    if decided.gpu:
        values["hardware.precision"] = "bf16"
        values[f"{run}.init"] = "stages/encoders/resnet.py"
        values[f"{run}.method.projector"] = "{ layers: 2, hidden: 512, out: 128, norm: all }"
    return values


def _judging(decided: Plan) -> dict[str, str]:
    if decided.unjudged:
        return {
            "evaluations.simclr.probes": "\n      geometry: {} # rank and spread: nothing is judged by classes",
            "finetunes": "{} # none: nothing is judged by classes",
        }
    near = 20 if decided.each >= 20 else 5
    return {
        "evaluations.simclr.probes.knn": f"{{ k: {near}, temperature: 0.07 }}",
        "finetunes.simclr.budgets": f"[{', '.join(decided.budgets)}]",
    }


def _store(found: Survey) -> str:
    height, width = (middle(side) for side in zip(*found.sizes, strict=True))
    shorts = sorted(min(size) for size in found.sizes)
    if shorts[len(shorts) * 9 // 10] > PACKED:
        return f"{{ short_side: {KEPT}, quality: 95 }} # pixels; what is larger becomes a JPEG of that short side"
    if len(set(found.sizes)) > 1:
        height = width = min(height, width)
    return f"{{ shape: [{height}, {width}], fit: crop }} # pixels; for large ones {{ short_side: {KEPT}, quality: 95 }}"


def _split(found: Survey) -> str:
    validation, test = (share or "own" for share in _shares(found))
    comment = " # shares of the groups: none is in two splits" if found.groups else ""
    if found.parts:
        comment = " # own: as it comes; a share is one of the other images"
    return f"{{ validation: {validation}, test: {test}, seed: 0 }}{comment}"


def _numbers(values: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{value:.3f}' for value in values)}]"


# the decisions


def _shares(found: Survey) -> tuple[float, float]:
    """Of the images in no split of their own, those for validation and test; 0 where the source has its own."""
    validation = 0 if "validation" in found.parts else OWN if "test" in found.parts else SHARE
    return validation, 0 if "test" in found.parts else SHARE


def _network(found: Survey, machine: Machine, train: float) -> tuple[int, str, float]:
    """Side of the images that the encoder sees, the encoder, and how many such images there is time for."""
    short = max(8, middle(min(size) for size in found.sizes))
    if not machine.gpu:
        side = min(short, 64)
        if CPU_WORK / side**2 < FEW_EPOCHS * train:
            side = min(short, 32)
        return side, SMALL, CPU_WORK / side**2
    if short <= 64:
        stem, side, work = "cifar", short, CIFAR_STEM * short**2
    else:
        stem, side = "imagenet", min(224, short // 32 * 32)
        work = side**2
    return side, f"{{ name: resnet, depth: 18, stem: {stem}, zero_init_residual: false }}", GPU_WORK / work


def _budgets(each: float) -> dict[str, str]:
    """1 % and 10 % where 1 % is a label of each class; else a number of each class, and all."""
    if each >= 100:
        return PERCENT
    few = max(1, round(each / 5))
    return {
        f"{few}each": f"{{ name: per_class, images: {few} }}, seeds: [0, 1, 2]",
        "all": "{ name: balanced, share: 1.0 }, seeds: [0]",
    }


def _bad(found: Survey) -> float:
    """One in a hundred, or twice as many as there seem to be."""
    share = found.unusable.total() / found.sampled
    return 0.01 if share <= 0.005 else min(0.5, round(2 * share + 0.005, 2))


def _unjudged(found: Survey, subset: int | None) -> str | None:
    """Why the study cannot judge by classes; None if it can."""
    if not found.labels:
        return "no image has a label"
    if found.source["labels"] is None and found.source["group"] == 1:
        return "the folders are the groups, so they are no classes"
    if len(found.labels) == 1:
        return f"all labels are {next(iter(found.labels))!r}, which leaves nothing to tell apart"
    if (risk := _risk(found, subset)) < RISK:
        return None
    rarest = min(found.loose, key=lambda name: found.loose[name])
    few = f"{found.labels[rarest]} label{'s' * (found.labels[rarest] != 1)}"
    few += f" in {found.loose[rarest]} of the groups" if found.groups else ""
    more = "images of more groups" if found.groups else "more of each class"
    return (
        f"the class {rarest!r} has {few}: {risk:.0%} of all splits by chance would leave one of {len(found.labels)} "
        f"classes without a label in train, or validation or test without any; label {more}, then run this again"
    )


def _risk(found: Survey, subset: int | None) -> float:
    """The probability that the probes refuse the split: each group or lone image falls into a part by its share."""
    most = subset / found.files * found.labeled / len(found.labels) if subset else math.inf  # it balances classes
    loose, shares = [min(count, most) for count in found.loose.values()], _shares(found)
    good = math.prod(1 - sum(shares) ** count for count in loose)
    return 1 - good * math.prod(1 - (1 - share) ** sum(loose) for share in shares if share)
