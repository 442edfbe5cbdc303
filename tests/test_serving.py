"""The served encoder: what it takes, what it refuses, and that it needs nothing of this project."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline import registry, repro, tracking
from pipeline.plugins import Spec
from stages.encoders import _export, _model

ROOT = Path(__file__).resolve().parent.parent
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def mlflow():
    repro.settle(tracking.SETTINGS)  # before the import
    import mlflow

    return mlflow


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """The exported folder of a small untrained network."""
    folder = tmp_path_factory.mktemp("export") / "simclr"
    torch.manual_seed(0)
    network = Spec("encoders", "small_resnet", {"width": 4, "blocks": 1})
    _export.write(folder, network, _export.describe(network, 16, 8, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))
    _export.save_weights(network.make(), folder / "encoder.safetensors")
    outputs = _model.load(folder)(torch.from_numpy(IMAGES)).clone()
    save_file({"inputs": torch.from_numpy(IMAGES), "outputs": outputs}, folder / "golden.safetensors")
    return folder


@pytest.fixture(scope="module")
def saved(mlflow, export, tmp_path_factory):
    """It as an MLflow model."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    with pytest.warns(UserWarning, match="input example"):
        mlflow.pyfunc.save_model(folder, **registry.package(mlflow, export))
    return folder


@pytest.fixture(scope="module")
def encoder(mlflow, saved):
    return mlflow.pyfunc.load_model(str(saved))


@pytest.fixture(scope="module")
def expected(export):
    """The features of IMAGES by the exported folder itself."""
    return _model.load(export)(IMAGES).numpy()


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def as_base64(image):
    return base64.b64encode(png(image)).decode()


@pytest.mark.parametrize(
    "given",
    [
        IMAGES,
        list(IMAGES),
        [png(image) for image in IMAGES],
        [as_base64(image) for image in IMAGES],
        pd.DataFrame({"image": [png(image) for image in IMAGES]}),
        np.array([as_base64(image) for image in IMAGES]),
        IMAGES.tolist(),
        IMAGES.astype(np.int64),
    ],
    ids=["array", "list", "bytes", "base64", "data frame", "array of base64", "nested lists", "json numbers"],
)
def test_every_accepted_form_gives_the_same_features(encoder, expected, given):
    """float32 (n, d), equal to what the exported folder gives, however the pixels come."""
    features = encoder.predict(given)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-6)


def test_sizes_may_be_mixed_and_order_is_kept(encoder, expected):
    """Images of several sizes in one call; each is embedded as it would be alone."""
    large, wide = np.full((20, 20, 3), 80, np.uint8), np.full((6, 30, 3), 200, np.uint8)
    for mixed in ([IMAGES[0], large, wide], [png(image) for image in (IMAGES[0], large, wide)]):
        features = encoder.predict(mixed)
        np.testing.assert_allclose(features[0], expected[0], atol=1e-6)
        np.testing.assert_allclose(features[1], encoder.predict(large[None])[0], atol=1e-6)
        np.testing.assert_allclose(features[2], encoder.predict(wide[None])[0], atol=1e-6)


def test_normalized_features_have_length_one(encoder, expected):
    """With params={"normalize": True}: the same directions on the unit sphere; without: as they are."""
    features = encoder.predict(IMAGES, params={"normalize": True})
    np.testing.assert_allclose(features, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)


def test_encoded_images_are_turned_upright(encoder):
    """A camera's orientation tag is obeyed, as it is when a data set is prepared."""
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    buffer = io.BytesIO()
    Image.fromarray(IMAGES[0]).save(buffer, "PNG", exif=exif)
    upright = encoder.predict(IMAGES[:1, ::-1, ::-1].copy())
    np.testing.assert_allclose(encoder.predict([buffer.getvalue()]), upright, atol=1e-6)


def test_a_read_only_array_is_taken(encoder, expected):
    """Such as np.load(..., mmap_mode="r") gives; the caller's array stays as it was."""
    images = IMAGES.copy()
    images.flags.writeable = False
    np.testing.assert_allclose(encoder.predict(images), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (IMAGES / np.float32(255), r"images must be uint8 RGB .* with values 0 to 255, not float32 from 0.0\d* to 1.0"),
        (IMAGES.astype(np.int64) * 2, r"not int64 from \d+ to 510"),
        (IMAGES.astype(np.int64) - 1, r"not int64 from -1 to 254"),
        (IMAGES.transpose(0, 3, 1, 2).copy(), r"channels last, .* not \(5, 3, 8, 8\)"),
        (IMAGES[0], r"channels last, .* not \(8, 8, 3\)"),
        (IMAGES[..., :1].copy(), r"must be RGB .* not \(5, 8, 8, 1\)"),
        (IMAGES[:0], r"is empty"),
        ([], r"is empty"),
        ([IMAGES[0], IMAGES[1].astype(np.float64)], r"images\[1\] must be uint8"),
        ([png(IMAGES[0]), b"not an image"], r"images\[1\] is not an encoded image"),
        (["?"], r"images\[0\] is not an encoded image"),
        ([png(np.zeros((4, 4), np.uint16))], r"images\[0\] .* more than 8 bits"),
        ([[[1, 2], [3]]], r"images\[0\] is ragged"),
        ("image.png", r"not str"),
        (pd.DataFrame({"a": [b""], "b": [b""]}), r"one column, .* not \['a', 'b'\]"),
    ],
)
def test_a_wrong_input_is_a_sentence(encoder, given, sentence):
    """Dtype, range, layout, emptiness, damage: one line that says what is wrong, without the pixels."""
    with pytest.raises((TypeError, ValueError), match=sentence) as error:
        encoder.predict(given)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


def test_without_pillow_arrays_still_work(encoder, expected, monkeypatch):
    """Only encoded images need it, and say so."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    np.testing.assert_allclose(encoder.predict(IMAGES), expected, atol=1e-6)
    with pytest.raises(RuntimeError, match="pip install pillow"):
        encoder.predict([b"anything"])


def test_damaged_weights_do_not_load(mlflow, export, tmp_path):
    """The self-test runs when the model is loaded."""
    weights = load_file(export / "encoder.safetensors")
    model = tmp_path / "model"
    with pytest.warns(UserWarning, match="input example"):
        mlflow.pyfunc.save_model(model, **registry.package(mlflow, export))
    [file] = model.rglob("encoder.safetensors")
    save_file({**weights, "bn1.bias": weights["bn1.bias"] + 1}, file)
    with pytest.raises(RuntimeError, match="golden features differ"):
        mlflow.pyfunc.load_model(str(model))


def test_the_example_needs_no_project_no_torchvision_and_no_pickle(saved, tmp_path):
    """examples/consume.py in a process where none of these can be imported or unpickled."""
    code = (
        "import sys, runpy\n"
        "class Nothing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'pipeline', 'stages', 'torchvision'}: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Nothing())\n"
        "import mlflow, pickle, torch\n"
        "def refuse(*args, **kwargs): raise RuntimeError('pickle')\n"
        "pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse\n"
        "runpy.run_path(sys.argv.pop(1))"
    )
    command = [sys.executable, "-c", code, str(ROOT / "examples" / "consume.py"), str(saved)]
    env = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    done = subprocess.run(command, cwd=tmp_path, env=env, check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.startswith("3 images, 16 features each, float32\n")
    assert done.stdout.count("cosine similarity") == 2


def test_no_file_of_the_model_is_a_pickle(saved):
    """Code, JSON, YAML and safetensors only."""
    kinds = {path.suffix for path in saved.rglob("*") if path.is_file()}
    assert kinds <= {".py", ".json", ".yaml", ".txt", ".safetensors", ""}
    assert [path.name for path in saved.rglob("*") if path.is_file() and not path.suffix] == ["MLmodel"]


@pytest.mark.service
def test_it_is_served_over_http(saved, expected, tmp_path):
    """`mlflow models serve` takes base64 of encoded images or nested lists of pixels, with params, as documented."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(saved), "-p", str(port)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"PATH": path}  # MLflow calls uvicorn by its name
    server = subprocess.Popen([*command, "--env-manager", "local"], cwd=tmp_path, env=env, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server)
        for inputs in ([as_base64(image) for image in IMAGES], IMAGES.tolist()):
            answer = post(f"http://127.0.0.1:{port}/invocations", {"inputs": inputs, "params": {"normalize": True}})
            unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
            np.testing.assert_allclose(np.array(answer["predictions"]), unit, atol=1e-5)
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def wait_for(url, server):
    while server.poll() is None:
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server ended")


def post(url, body):
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as answer:
        return json.load(answer)
