"""What the weights of a row saw before they were judged, as far as its scores, which know one data set, cannot say."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.lineage import lineage, saw_labels
from pipeline.teachers import teacher_of

if TYPE_CHECKING:
    from stages.figures._study import Study


def leak(study: "Study", block: dict[str, Any]) -> str:
    """That an evaluation or a finetune is judged on images that its weights were trained on in another data set.

    The weights are those of its run, of those that it starts from, and of teachers. Equal is what has the same sha256
    of its pixels as they are kept. What pretraining sees of the data set itself stands in its leaks and in protocols.
    """
    trained = {run for start in _runs(study, block) for run in lineage(study.runs, start) if run in study.curves}
    others = [run for run in study.runs if run in trained and study.runs[run]["dataset"] != block["dataset"]]
    if not others:
        return ""
    tested = study.hashes(block["dataset"])[study.prepared(block["dataset"]).labeled("test")]
    found = {run: np.isin(tested, _images(study, run)) for run in others}
    guilty = [study.runs[run] for run in others if found[run].any()]
    if not guilty:
        return ""
    names = " and ".join(dict.fromkeys(run["dataset"] for run in guilty))
    labels = ", with labels" if any(run["sees"] == "labels" for run in guilty) else ""
    count = int(np.any(list(found.values()), axis=0).sum())
    return f"pretraining on {names} saw {count:,} of {len(tested):,} test images{labels}"


def note(study: "Study", row: str, score: str) -> str:
    """What the protocol of a score of a row has to say besides, beginning with a comma; nothing where all is said."""
    tuned = score.startswith("finetune.")
    words = study.leaks.get(f"{'finetune' if tuned else 'evaluate'}@{row}")
    said = f", {words}" if words else ""
    if tuned:
        return said
    block, key = study.evaluations[row], score.partition(".")[0]
    few = block["probes"][key].get("name", key) == "few_labels"
    spent = few and saw_labels(study.runs, block["run"], block["dataset"])
    return f"{said}, of an encoder that saw labels in pretraining" if spent else said


def _runs(study: "Study", block: dict[str, Any]) -> Iterator[str]:
    """The runs whose encoders an evaluation or a finetune takes, those of its teachers included."""
    yield block["run"]
    if "teacher" in block and (teacher := teacher_of(block)):
        yield from _runs(study, study.finetunes[teacher])


def _images(study: "Study", run: str) -> np.ndarray:
    """The sha256 of the images that a run trained on."""
    block = study.runs[run]
    data = study.prepared(block["dataset"])
    return study.hashes(block["dataset"])[data.pretrain if block["sees"] == "images" else data.pretrain_labels[0]]
