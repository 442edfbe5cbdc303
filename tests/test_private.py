"""`private: true`: what is shown, sent or registered holds no image, no id and no path; and without it, it does."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import toy_project
from encoder_cases import images, leave
from made_study import Stage, write_json, write_study
from safetensors.torch import load_file

from pipeline import params, paths, stage, tracking
from pipeline.private import masked
from stages import embed
from stages.datasets._storage import Packed
from stages.encoders import _model
from stages.report import report

SOURCE = {"name": "folder", "path": "data/raw/clinic", "store": {"shape": [8, 8], "fit": "crop"}, "labels": "names.csv"}
INIT = "data/raw/clinic-weights.pth"
TRACES = ("data:image", "digit-0", "data/raw", "clinic", "names.csv")  # an image, an id, paths


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A study whose images lie in a folder with a telling name: its sections and where it lies."""
    root = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        params = write_study(120)
        params["datasets"]["digits"]["source"] = SOURCE
        params["runs"]["simclr"]["init"] = INIT
        for stage, values in (
            ("prepare-digits", {"datasets.digits": params["datasets"]["digits"]}),
            ("pretrain-simclr", {"runs.simclr": params["runs"]["simclr"]}),
        ):
            receipt = json.loads(paths.receipt(stage).read_text())
            data = {**receipt["data"], SOURCE["path"]: "0" * 32 + ".dir", INIT: "0" * 32}
            write_json(paths.receipt(stage), {**receipt, "params": values, "data": data})
    return SimpleNamespace(root=root, params=params)


def reported(study: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, private: bool) -> str:
    """All files of the report in one text."""
    monkeypatch.chdir(study.root)
    report(Stage(Path("out")), **{**study.params, "private": private})
    return "\n".join(path.read_text() for path in sorted(Path("out").iterdir()))


def test_a_private_report_shows_nothing_of_an_image(study: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """No image, id or path is in any of its files; scores, curves, map, confusion and receipts are."""
    text = reported(study, monkeypatch, private=True)
    assert [trace for trace in TRACES if trace in text] == []
    assert re.findall(r'<section id="(\w+)"', text)[-5:] == ["curves", "map", "confusion", "data", "receipts"]
    assert "<circle" in text
    assert "a private file" in text


def test_without_the_switch_the_report_shows_them(study: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: the same study, not private, shows images and paths."""
    text = reported(study, monkeypatch, private=False)
    assert {"data:image", "data/raw", "clinic", "names.csv"} <= {trace for trace in TRACES if trace in text}


@pytest.mark.parametrize(
    ("shown", "hidden"),
    [
        ({"datasets.a": {"source": SOURCE}}, {"datasets.a": {"source": SOURCE | {"path": 1, "labels": 1}}}),
        ({"runs.a": {"init": INIT}}, {"runs.a": {"init": 1}}),
        (
            {"select": [{"name": "official", "file": "data/raw/list.txt"}]},
            {"select": [{"name": "official", "file": 1}]},
        ),
        ({"data/raw/a": "md5", "data/datasets/a": "md5"}, {1: "md5", "data/datasets/a": "md5"}),
        ({"init": "stages/encoders/vit.py", "k": 20}, {"init": "stages/encoders/vit.py", "k": 20}),
    ],
)
def test_paths_of_images_are_masked_and_nothing_else(shown: Any, hidden: Any) -> None:
    """A text in data/raw, and any text of a source but its name, becomes the same words."""
    found = json.loads(json.dumps(masked(shown)).replace('"a private file"', "1").replace("1:", '"1":'))
    assert found == json.loads(json.dumps(hidden))


def test_a_private_export_holds_no_image(tmp_path: Path) -> None:
    """Its self-test is about noise of the same size, and passes."""
    real = Packed(images(20, seed=7))
    folder = leave(tmp_path / "run", "small_resnet", side=8)
    embed.export(folder, 0, embed.noise(real), tmp_path / "export")
    inputs = load_file(tmp_path / "export" / "golden.safetensors")["inputs"].numpy()
    assert inputs.shape == (embed.GOLDEN, *real.canvas, 3)
    assert not any(np.array_equal(shown, kept) for shown in inputs for kept in real.parts[0])
    _model.load(tmp_path / "export").self_test()


# ---- what MLflow is sent


DAG = """\
stages:
  prepare:
    foreach: ${datasets}
    do:
      cmd: python -m stages.prepare ${key}
      params: ["datasets.${key}"]
      deps: ["${item.source.path}"]
      outs: ["data/datasets/${key}/labels.parquet"]
"""


def prepare(stage: Any, *, source: Any, subset: Any, split: Any, quality: Any, pretrain_on: Any, budgets: Any) -> None:
    """A stage that leaves what it has to."""
    stage.log({"train": 1.0})
    stage.out(paths.dataset(stage.item) / "labels.parquet").write_text("labels")


@pytest.mark.parametrize("private", [True, False])
def test_the_tracker_is_sent_no_path_of_a_private_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path, private: bool
) -> None:
    """Of all that a stage writes down for MLflow nothing says where images lie; without the switch their folder is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONTRAIL_TRACKING", "off")
    study = params.read(root / "params.yaml") | {"private": private, "runs": {}, "evaluations": {}, "finetunes": {}}
    study["datasets"]["digits"]["source"] = SOURCE | {"group": None, "split": None}
    toy_project.make(tmp_path)
    (tmp_path / "params.yaml").write_text(json.dumps(study))
    (tmp_path / "dvc.yaml").write_text(DAG)
    (tmp_path / SOURCE["path"]).mkdir(parents=True)
    stage.execute(prepare, "prepare@digits")
    [spool] = (tmp_path / tracking.SPOOLS).glob("*.jsonl")
    assert "labels" in spool.read_text()
    assert [trace for trace in ("data/raw", "clinic", "names.csv") if trace in spool.read_text()] == (
        [] if private else ["data/raw", "clinic", "names.csv"]
    )
