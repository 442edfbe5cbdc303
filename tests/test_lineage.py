"""Where the weights of a run come from, and with it whether they saw labels."""

from typing import Any

import pytest

from pipeline.lineage import lineage, saw_labels, without_labels

OWN = "stages/encoders/small_resnet.py"


def weights(run: str) -> str:
    return f"data/encoders/{run}/seed-0/encoder.safetensors"


def run(init: str = OWN, sees: str = "images", dataset: str = "cats") -> dict[str, Any]:
    return {"init": init, "sees": sees, "dataset": dataset}


@pytest.fixture
def runs() -> dict[str, Any]:
    """Two runs that start from one with labels, one of them by way of the other; one from a file; one of its own."""
    return {
        "labels": run(sees="labels"),
        "next": run(weights("labels")),
        "last": run(f"./{weights('next')}", dataset="dogs"),
        "file": run("data/raw/theirs.pth"),
        "next-to": run(),
    }


def test_a_lineage_is_all_that_weights_come_from(runs: dict[str, Any]) -> None:
    """The run itself first; a file from elsewhere is nobody's."""
    assert lineage(runs, "last") == ["last", "next", "labels"]
    assert lineage(runs, "file") == ["file"]
    assert lineage(runs, "next-to") == ["next-to"]


def test_labels_are_inherited(runs: dict[str, Any]) -> None:
    """However many runs ago they were seen; they are those of one data set."""
    assert [name for name in runs if saw_labels(runs, name)] == ["labels", "next", "last"]
    assert saw_labels(runs, "last", "cats")
    assert not saw_labels(runs, "last", "dogs")


def test_of_weights_from_elsewhere_nothing_is_known(runs: dict[str, Any]) -> None:
    """They are neither with labels nor without, and so is what starts from them."""
    runs["later"] = run(weights("file"))
    assert not saw_labels(runs, "later")
    assert [name for name in runs if without_labels(runs, name)] == ["next-to"]


def test_a_circle_ends(runs: dict[str, Any]) -> None:
    """DVC refuses it, with its stages; until then nothing hangs."""
    runs["labels"]["init"] = weights("last")
    assert lineage(runs, "last") == ["last", "next", "labels"]
    assert not without_labels(runs, "last")
