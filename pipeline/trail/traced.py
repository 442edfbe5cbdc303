"""What `contrail trace` says of images: as data for --json, and in words."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from pipeline.gates import FORGOTTEN
from pipeline.trail import history, marks
from pipeline.trail.seen import Answer, Held, Trail

SHOWN = 5  # images, and stages of other studies, that are listed one by one


def facts(trail: Trail, client: Any) -> dict[str, Any]:
    """Everything. client: of the tracking store; None: its versions are not looked at."""
    return {
        "images": sorted(trail.hashes),
        "datasets": [_dataset(trail, held) for held in trail.held],
        "quarantined": [{"dataset": made.item, "where": made.where, **file} for made, file in trail.quarantined],
        "runs": [
            {"run": made.item, "where": made.where, "sees": made.block["sees"], **_answer(trail.saw(made))}
            for made in trail.made
            if made.command == "pretrain"
        ],
        "finetunes": [
            {"finetune": made.item, "where": made.where, "budgets": trail.used(made), **_answer(trail.unlabeled(made))}
            for made in trail.made
            if made.command == "finetune"
        ],
        "versions": [
            {
                "model": version.name,
                "version": int(version.version),
                "aliases": aliases,
                "run": version.tags["run"],
                **_answer(trail.version(version.tags)),
                "forgotten": version.tags.get(FORGOTTEN),
            }
            for version, aliases in (marks.versions(client) if client else ())
        ],
        "failed": trail.store.failed,
    }


def _dataset(trail: Trail, held: Held) -> dict[str, Any]:
    labels = trail.labels(held)
    budgets = held.made.outs.get(f"data/datasets/{held.made.item}/budgets")
    images = [
        {
            **{name: row[name] for name in ("id", "sha256", "split", "group")},
            "label": labels.get(row["id"]),
            "budgets": trail.budgets(budgets, [row["id"]]),
        }
        for row in held.images.to_pylist()
    ]
    return {"dataset": held.made.item, "where": held.made.where, "images": images}


def _answer(answer: Answer) -> dict[str, Any]:
    return {"saw": answer.count, "why": answer.why}


def words(found: dict[str, Any]) -> Iterator[str]:
    """The facts, a line each; those of earlier commits after those of dvc.lock."""
    for file in found["quarantined"]:
        what = f"{file['kind']}, {file['reason']}"
        yield f"data set {file['dataset']}{_where(file)} left {file['file']} out, so nothing saw it: {what}"
    count = len(found["images"])
    if not count:
        yield from [] if found["quarantined"] else ["no data set holds such an image, now or in any commit"]
        yield from _unknown(found)
        return
    yield f"{_many(count, 'image')}: sha256 {', '.join(found['images'][:SHOWN])}{', …' if count > SHOWN else ''}"
    for dataset in found["datasets"]:
        yield from _dataset_words(dataset)
    for run in _seen(found["runs"]):
        labeled = " with their labels" if run["sees"] == "labels" else ""
        yield f"pretrain@{run['run']}{_where(run)} saw {run['saw']} of {count}{labeled}"
    for finetune in (f for f in found["finetunes"] if f["budgets"]):
        yield f"finetune@{finetune['finetune']}{_where(finetune)} used labels: {_drawn(finetune['budgets'])}"
    for finetune in _seen(found["finetunes"]):
        yield f"finetune@{finetune['finetune']}{_where(finetune)} saw {finetune['saw']} of {count} without a label"
    for version in _seen(found["versions"]):
        yield f"{_name(version)} saw {version['saw']} of {count}{_note(version)}"
    yield from _unknown(found)


def _dataset_words(dataset: dict[str, Any]) -> Iterator[str]:
    name = f"data set {dataset['dataset']}{_where(dataset)}"
    images = dataset["images"]
    if len(images) > SHOWN:
        splits = [image["split"] for image in images]
        parts = ", ".join(f"{split} {splits.count(split)}" for split in sorted(set(splits)))
        known = sum(image["label"] is not None for image in images)
        yield f"{name}: {len(images)} images: {parts}; {known} with a label"
        return
    for image in images:
        label = "no label" if image["label"] is None else f"label {image['label']}"
        group = f", group {image['group']}" if image["group"] not in ("", image["sha256"]) else ""
        granted = f", granted by {_drawn(image['budgets'])}" if image["budgets"] else ""
        yield f"{name}: {image['id']}, {image['split'] or 'split unknown'}{group}, {label}{granted}"


def _unknown(found: dict[str, Any]) -> Iterator[str]:
    """What cannot be said, in one line for each reason; of other studies and earlier commits in one line for all."""
    reasons = defaultdict(list)
    for run in found["runs"]:
        if run["saw"] is None:
            reasons[run["why"], _where(run)].append(f"pretrain@{run['run']}")
    for finetune in found["finetunes"]:
        name, where = f"finetune@{finetune['finetune']}", _where(finetune)
        if finetune["budgets"] is None:
            reasons["the lists of its labels are gone", where].append(name)
        elif finetune["saw"] is None:
            reasons[finetune["why"], where].append(name)
    for version in found["versions"]:
        if version["saw"] is None:
            reasons[version["why"], ""].append(f"{_name(version)}{_note(version)}")
    for (why, where), whose in reasons.items():
        if not where:
            yield f"cannot be known: {', '.join(whose)}: {why}"
    if earlier := sum(len(whose) for (_, where), whose in reasons.items() if where):
        yield f"cannot be known of {earlier} executions of other studies and earlier commits: --json has each, and why"
    for remote, why in found["failed"].items():
        yield f"the remote {remote!r} was left out: {why}"


def _seen(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in items if item["saw"]]


def _name(version: dict[str, Any]) -> str:
    return " ".join([version["model"], str(version["version"]), *(f"@{alias}" for alias in version["aliases"])])


def _note(version: dict[str, Any]) -> str:
    return f" ({version['forgotten']})" if version["forgotten"] else ""


def _where(item: dict[str, Any]) -> str:
    return "" if item["where"] == history.NOW else f" ({item['where']})"


def _drawn(budgets: dict[str, list[int]]) -> str:
    return ", ".join(f"{name} (seeds {', '.join(map(str, seeds))})" for name, seeds in budgets.items())


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
