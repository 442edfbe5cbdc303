"""A registered encoder as something to start from, and one that was exported as a program."""

import warnings
from pathlib import Path

import pytest
import torch
from encoder_cases import SIDE, images, leave
from safetensors.torch import load_file

from pipeline import params, plugins, registry, tracking
from pipeline.errors import Refusal
from stages import embed
from stages.datasets._storage import Packed
from stages.encoders import _model
from stages.encoders._initial import initialized


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a timm encoder as version 1 of digits-encoder, its champion; its export beside it."""
    root = tmp_path_factory.mktemp("project")
    embed.export(leave(root / "run", "timm", SIDE), 0, Packed(images(embed.GOLDEN)), root / "export")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(root)
        mlflow = tracking.connect(root)
        client = mlflow.MlflowClient()
        mlflow.set_experiment("fetch")  # another test of this process may have set one of its own store
        client.create_registered_model("digits-encoder")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "no input example", once a process
            logged = mlflow.pyfunc.log_model(name="encoder", **registry.package(mlflow, root / "export"))
        client.create_model_version("digits-encoder", logged.model_uri, model_id=logged.model_id)
        client.set_registered_model_alias("digits-encoder", "champion", "1")
    return root


@pytest.fixture
def project(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(made)
    return made


def test_a_registered_encoder_is_fetched_to_start_from(project: Path) -> None:
    """By alias or version its weights come to data/raw, with the lines that build the network around them."""
    lines = registry.fetch("models:/digits-encoder@champion")
    assert lines == registry.fetch("models:/digits-encoder/1")
    Path("lines.yaml").write_text(lines)
    run = params.read("lines.yaml")
    assert run["init"] == "data/raw/digits-encoder-v1.safetensors"
    encoder = plugins.specify("encoders", run["encoder"], "runs.a.encoder")
    network, _ = initialized(encoder, run["init"], run["input"]["side"], torch.device("cpu"))
    kept = load_file(project / "export" / "encoder.safetensors")
    assert all(torch.equal(weight, kept[name]) for name, weight in network.state_dict().items())


def test_a_program_is_served(project: Path) -> None:
    """The encoder that was exported as a program is served from the registry, with the same bits."""
    served = tracking.connect(project).pyfunc.load_model("models:/digits-encoder@champion")
    given = images(3, 9, 7)
    assert (served.predict(given) == _model.load(project / "export")(given).numpy()).all()


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("models:/digits-encoder", "models:/digits-encoder names no version: write models:/<name>@<alias> or models:/"),
        (
            "models:/digits-encoder@next",
            "no models:/digits-encoder@next, only models:/digits-encoder/1, models:/digits",
        ),
        ("models:/digits-encoder/7", "no models:/digits-encoder/7, only models:/digits-encoder/1, models:/digits-enc"),
        ("models:/birds-encoder@champion", "no models:/birds-encoder@champion, only models of other names"),
    ],
)
def test_what_is_not_registered_is_a_sentence(project: Path, uri: str, says: str) -> None:
    """No such version, alias or model: the sentence says what there is."""
    with pytest.raises(registry.RegistryError) as refused:
        registry.fetch(uri)
    assert says in str(refused.value)


def test_a_registry_that_is_down_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded, and the store that does not answer is named."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refusal, match=r"http://127\.0\.0\.1:9 failed"):
        registry.fetch("models:/digits-encoder@champion")
    assert not Path("data").exists()
