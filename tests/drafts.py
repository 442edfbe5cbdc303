"""What `contrail use folder` sees in a folder, and the params.yaml that it would write."""

import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from toy_project import REPOSITORY

from pipeline.drafting import draft, survey

TEMPLATE = (REPOSITORY / "recipes" / "folder" / "params.yaml").read_text()
CPU, GPU = draft.Machine(gpu=False, cores=2), draft.Machine(gpu=True, cores=16)


def look(folder: Path, labels: str | None = None, group: str | None = None) -> survey.Survey:
    """What is seen in a folder; `labels` names its table."""
    return survey.survey(folder, folder / labels if labels else None, group)


def parsed(text: str) -> Any:
    return json.loads(json.dumps(YAML(typ="safe").load(text)))


def drafted(found: survey.Survey, machine: draft.Machine = CPU) -> Any:
    """The params.yaml of a survey, as values."""
    return parsed(draft.draft(TEMPLATE, found, draft.plan(found, machine), "birds", "data/raw/birds"))
