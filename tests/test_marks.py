"""What a registered version says of the images that it learned from, and what becomes of it when one is forgotten."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlflow.store.entities import PagedList
from registry_project import write_data, write_evaluation, write_params
from safetensors.numpy import load_file

from pipeline import gates, lock, paths, registry, tracking
from pipeline.trail import forget, history, marks
from pipeline.trail.consent import Plan

LISTED = {"path": "data/datasets/toy/pretrain/images.parquet", "md5": "1" * 32}
IMAGES = {"path": "data/datasets/toy/images", "md5": "2" * 32 + ".dir"}
ENCODER = {"path": "data/encoders/fair", "md5": "3" * 32 + ".dir"}
WEIGHTS = {"path": "data/raw/other.pth", "md5": "4" * 32}


def record_training(**block: Any) -> None:
    """Let dvc.lock say how the encoder of `fair` was made, and that its export is of that encoder."""
    entries = json.loads(Path("dvc.lock").read_text())
    block = {"dataset": "toy", "sees": "images", "init": "net.py", "training": {"epochs": 2}, **block}
    entries["stages"]["pretrain@fair"] = {
        "cmd": "python -m stages.pretrain fair",
        "deps": [LISTED, IMAGES, WEIGHTS],
        "params": {"params.yaml": {"runs.fair": block}},
        "outs": [ENCODER],
    }
    entries["stages"]["embed@fair"]["deps"] = [ENCODER, IMAGES]
    Path("dvc.lock").write_text(json.dumps(entries))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one registered encoder."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        write_data(paths.dataset("toy"))
        write_params()
        write_evaluation("fair", 2)
        record_training()
        registry.register("fair")
    return root


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return made


def test_a_version_names_the_images_and_the_list_it_learned_from(here: Path) -> None:
    """By md5, so that they can be looked up as long as any cache or remote has them."""
    with tracking.reach(here) as mlflow:
        [(version, aliases)] = marks.versions(mlflow.MlflowClient())
    assert json.loads(version.tags["trained"]) == [{"images": IMAGES["md5"], "list": LISTED["md5"]}]
    assert aliases == ["candidate"]


@pytest.mark.parametrize(
    ("block", "steps"),
    [
        ({"training": {"epochs": 0}}, []),
        ({"init": WEIGHTS["path"], "training": {"epochs": 0}}, [{"weights": WEIGHTS["md5"]}]),
        (
            {"init": WEIGHTS["path"]},
            [{"images": IMAGES["md5"], "list": LISTED["md5"]}, {"weights": WEIGHTS["md5"]}],
        ),
    ],
)
def test_weights_that_it_started_from_are_named_too(here: Path, block: dict[str, Any], steps: list[Any]) -> None:
    """An untrained encoder learned from nothing; other weights may have seen what nobody here knows."""
    before = Path("dvc.lock").read_text()
    record_training(**block)
    assert json.loads(history.trained("fair", "fair")["trained"]) == steps
    Path("dvc.lock").write_text(before)


def test_an_export_of_another_encoder_names_nothing(here: Path) -> None:
    """Where dvc.lock holds a later training than the export's, what the export learned from is not known."""
    before = Path("dvc.lock").read_text()
    record_training()
    entries = json.loads(Path("dvc.lock").read_text())
    entries["stages"]["embed@fair"]["deps"] = [ENCODER | {"md5": "5" * 32}]
    Path("dvc.lock").write_text(json.dumps(entries))
    assert history.trained("fair", "fair") == {}
    Path("dvc.lock").write_text(before)


def test_a_version_loses_its_images_and_says_that_it_saw_them(here: Path) -> None:
    """Its self-test is about noise then, and passes; its tag and its run's say so, and it is promoted no more."""
    real = load_file(paths.export("fair") / "golden.safetensors")["inputs"]
    with tracking.reach(here) as mlflow:
        client = mlflow.MlflowClient()
        assert holding(mlflow, real)
        key = lock.key(lock.read(here)["pretrain@fair"])
        run = client.create_run(tracking.experiment(client, "toy"), tags={"dvc.key": key}).info.run_id
        assert marks.runs(client, [key, "other"]) == {key: [run]}
        words = "saw 2 images forgotten on 2026-01-01"
        plan = Plan(versions={"toy-encoder 1": words}, runs={run: words}, shown=["toy-encoder 1"])
        for _ in range(2):  # as after a kill
            forget._note(mlflow, plan)
        more = "may have seen images that were forgotten on 2026-02-02"
        forget._note(mlflow, Plan(versions={"toy-encoder 1": more}, runs={run: more}))
        forget._note(mlflow, plan)
        assert not holding(mlflow, real)
        mlflow.pyfunc.load_model("models:/toy-encoder/1")
        [(version, _)] = marks.versions(client)
        assert client.get_run(run).data.tags[gates.FORGOTTEN] == version.tags[gates.FORGOTTEN] == f"{words}; {more}"
    with pytest.raises(registry.RegistryError, match=f"it {words}"):
        registry.promote(1)


class Paged:
    """An MLflow client that answers with one thing a page."""

    def search_registered_models(self, query: str = "", page_token: str | None = None) -> PagedList:
        names = [name for name in ("other-encoder", "toy-encoder") if name in (query or name)]
        return self.page([SimpleNamespace(name=name, aliases={}) for name in names], page_token)

    def search_model_versions(self, query: str, page_token: str | None = None) -> PagedList:
        name, tags = query.split("'")[1], {"evaluation": "fair"}
        return self.page([SimpleNamespace(name=name, version=str(number), tags=tags) for number in (1, 2)], page_token)

    def search_experiments(self, page_token: str | None = None) -> PagedList:
        return self.page([SimpleNamespace(experiment_id=number) for number in "12"], page_token)

    def search_runs(self, places: list[str], query: str, page_token: str | None = None) -> PagedList:
        return self.page([SimpleNamespace(info=SimpleNamespace(run_id=f"run {place}")) for place in places], page_token)

    def page(self, found: list[Any], token: str | None) -> PagedList:
        at = int(token or 0)
        return PagedList(found[at : at + 1], str(at + 1) if found[at + 1 :] else None)


def test_the_store_is_read_to_the_last_page() -> None:
    """Models beyond a page, their versions, experiments and runs are found as those on the first."""
    found = [(version.name, version.version) for version, _ in marks.versions(Paged())]
    assert found == [(name, version) for name in ("other-encoder", "toy-encoder") for version in "12"]
    assert marks.runs(Paged(), ["a"]) == {"a": ["run 1", "run 2"]}
    assert [version.version for version in registry.versions(Paged(), "toy-encoder")] == ["1", "2"]


def holding(mlflow: Any, real: np.ndarray) -> bool:
    """Whether the registered version, or what MLflow keeps of it, holds one of the images."""
    folder = Path(mlflow.artifacts.download_artifacts("models:/toy-encoder/1"))
    kept = [path.read_bytes() for place in (folder, Path(".mlflow")) for path in place.rglob("*") if path.is_file()]
    return any(image.tobytes() in content for image in real for content in kept)
