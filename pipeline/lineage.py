"""Where the first weights of a run come from: a file of weights, another run, and whatever that one started from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import paths


def lineage(runs: Mapping[str, Any], name: str) -> list[str]:
    """The run, the one whose encoder it starts from, and so on: all of the study that its weights have learned in."""
    found = [name]
    while (before := _before(runs, found[-1])) and before not in found:
        found.append(before)
    return found


def saw_labels(runs: Mapping[str, Any], name: str, dataset: str | None = None) -> bool:
    """Whether the weights of a run saw labels in this study, of any data set or of this one."""
    return any(runs[run]["sees"] == "labels" and dataset in (None, runs[run]["dataset"]) for run in lineage(runs, name))


def without_labels(runs: Mapping[str, Any], name: str) -> bool:
    """Whether the weights of a run saw no label; of weights from elsewhere nobody here can know that."""
    return runs[lineage(runs, name)[-1]]["init"].endswith(".py") and not saw_labels(runs, name)


def _before(runs: Mapping[str, Any], name: str) -> str | None:
    """The run of the study in whose folder the first weights of a run lie."""
    init = Path(runs[name]["init"])
    return next((other for other in runs if init.is_relative_to(paths.encoder(other))), None)
