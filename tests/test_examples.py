"""The examples run as they stand, on a registered encoder, where nothing of this project can be imported."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import registry_project as project
from PIL import Image

from pipeline import paths, registry, repro

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MODEL = "models:/toy-encoder@candidate"


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one registered encoder, of three features."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(root)
        project.write_params()
        project.write_data(paths.dataset("toy"))
        project.write_evaluation("good", 16)
        registry.register("good")
    return root


def run(registered: Path, here: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = repro.environment(MLFLOW_TRACKING_URI=f"sqlite:///{registered}/.mlflow/mlflow.db", PYTHONPATH="")
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)


def test_consume(registered: Path, tmp_path: Path) -> None:
    """Arrays of any size become features."""
    done = run(registered, tmp_path, "consume.py", MODEL)
    assert done.stdout.startswith("3 images, 3 features each, float32\n"), done.stderr
    assert "cosine similarity of the square to noise: " in done.stdout


def test_encode(registered: Path, tmp_path: Path) -> None:
    """A folder becomes a row of length 1 a file, in the order of their paths; what is no image is left out, by name."""
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (6 + number, 9, 3), np.uint8)
        (tmp_path / "photos" / "more").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / ("more" if number % 2 else "") / f"{number}.png")
    for name in ("notes.txt", "broken.png"):
        (tmp_path / "photos" / name).write_text("no image")
    done = run(registered, tmp_path, "encode.py", MODEL, "photos", "features.npz")
    assert done.stdout == "5 images, 3 features each: features.npz\n", done.stderr
    assert "left out: photos/broken.png: cannot identify image file" in done.stderr
    assert "notes" not in done.stderr
    with np.load(tmp_path / "features.npz") as kept:
        assert kept["files"].tolist() == ["0.png", "2.png", "4.png", "more/1.png", "more/3.png"]
        np.testing.assert_allclose(np.linalg.norm(kept["features"], axis=1), 1, rtol=1e-5)


def test_encode_names_a_model_that_is_not_there(registered: Path, tmp_path: Path) -> None:
    """No traceback: there is no champion yet."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    done = run(registered, tmp_path, "encode.py", "models:/toy-encoder@champion", ".", "features.npz")
    assert done.returncode == 1
    assert "models:/toy-encoder@champion cannot be loaded: " in done.stderr
    assert "Traceback" not in done.stderr


def test_encode_needs_images(registered: Path, tmp_path: Path) -> None:
    """A wrong folder is a sentence."""
    done = run(registered, tmp_path, "encode.py", MODEL, str(tmp_path), "features.npz")
    assert done.returncode == 1
    assert "holds no image (.bmp, " in done.stderr
