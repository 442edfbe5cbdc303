"""A trained encoder as a function from pixels to features, and the folder in which it leaves.

Claims, in this order: preprocessing is what one computes by hand; every wrong input is a sentence; a folder gives the
encoder that was saved; an export tests itself and is byte-stable.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_cases import MEAN, STD, images, leave
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.transforms.v2.functional import resize

from stages import embed
from stages.datasets._storage import Packed
from stages.encoders import _export, _model
from stages.encoders.pixels import Pixels
from stages.encoders.small_resnet import SmallResNet


def model(encoder: nn.Module | None = None, side: int = 8, features: int = 0) -> _model.Model:
    """A model without a folder; by default its features are the preprocessed pixels."""
    config = {"features": features or 3 * side**2, "input": {"side": side, "mean": list(MEAN), "std": list(STD)}}
    return _model.Model(encoder or Pixels(), config)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """The folder of a run with one seed."""
    return leave(tmp_path / "encoders" / "a", "small_resnet", side=8)


@pytest.fixture
def exported(trained: Path, tmp_path: Path) -> Path:
    """An export of it, as embed leaves it."""
    embed.export(trained, 0, Packed(images(embed.GOLDEN)), tmp_path / "export")
    return tmp_path / "export"


# ---- a model: preprocessing


def test_preprocessing_is_what_one_computes_by_hand() -> None:
    """(pixel / 255 - mean) / std per channel, channels first."""
    pixels = images(3)
    expected = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(model()(pixels).numpy(), expected.transpose(0, 3, 1, 2).reshape(3, -1), atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (5, 5), (20, 9), (8, 12)])
def test_other_sizes_are_resized_with_antialias(height: int, width: int) -> None:
    """Images of another size become side × side as torchvision's antialiased bilinear resize makes them."""
    pixels = torch.from_numpy(images(2, height, width))
    resized = resize(pixels.permute(0, 3, 1, 2).float() / 255, [8, 8], antialias=True)
    expected = (resized - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(model()(pixels), expected.flatten(1), rtol=0, atol=1e-5)


def test_a_list_may_mix_sizes() -> None:
    """Each image of a list is treated as it would be alone."""
    mixed = [images(1, height, width, seed=height)[0] for height, width in ((8, 8), (30, 7), (4, 4), (8, 8))]
    alone = torch.cat([model()(image[None]) for image in mixed])
    torch.testing.assert_close(model()(mixed), alone)
    torch.testing.assert_close(model()(tuple(torch.from_numpy(image) for image in mixed)), alone)


@pytest.mark.parametrize("as_list", [False, True])
def test_features_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch, as_list: bool) -> None:
    """Images in one pass, in passes of three and in passes of one have the same features."""
    torch.manual_seed(0)
    encode, pixels = model(SmallResNet(width=4, blocks=1), features=16), images(10)
    given = list(pixels) if as_list else pixels
    found = []
    for chunk in (512, 3, 1):
        monkeypatch.setattr(_model, "CHUNK", chunk)
        found.append(encode(given))
    assert found[0].shape == (10, 16)
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[2], found[0], rtol=1e-5, atol=1e-6)


def test_what_numpy_lends_is_taken() -> None:
    """Read-only arrays and views that run backward (BGR turned around) are images like any other."""
    pixels = images(3)
    locked = pixels.copy()
    locked.flags.writeable = False
    assert torch.equal(model()(locked), model()(pixels))
    assert torch.equal(model()(pixels[..., ::-1]), model()(pixels[..., ::-1].copy()))
    assert torch.equal(model()([locked[0], pixels[1, ::-1]]), model()(np.stack([pixels[0], pixels[1, ::-1]])))


def test_a_model_is_in_eval_mode_and_keeps_no_graph() -> None:
    """One image has the features that it has in company, and they need no gradient."""
    encode, pixels = model(SmallResNet(width=4, blocks=1), features=16), images(4)
    assert not encode.training
    torch.testing.assert_close(encode(pixels)[:1], encode(pixels[:1]), rtol=1e-5, atol=1e-6)
    assert not encode(pixels).requires_grad


# ---- a model: wrong inputs


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (images(2) / 255, TypeError, "images must be a uint8 array or tensor with values 0 to 255, not float64"),
        (torch.rand(2, 8, 8, 3), TypeError, "images must be a uint8 array or tensor with values 0 to 255, not float32"),
        (
            images(2).astype(np.int64),
            TypeError,
            "images must be a uint8 array or tensor with values 0 to 255, not int64",
        ),
        (images(2).astype(np.uint16), TypeError, "must be a uint8 array or tensor with values 0 to 255, not uint16"),
        (images(2) > 7, TypeError, "must be a uint8 array or tensor with values 0 to 255, not bool"),
        ("cat.png", TypeError, "images must be a uint8 array or tensor with values 0 to 255, not str"),
        (None, TypeError, "images must be a uint8 array or tensor with values 0 to 255, not NoneType"),
        ([[0, 1], [2, 3]], TypeError, "images[0] must be a uint8 array or tensor with values 0 to 255, not list"),
        (["cat.png"], TypeError, "images[0] must be a uint8 array or tensor with values 0 to 255, not str"),
        (images(2).transpose(0, 3, 1, 2), ValueError, "the channels last, (n, height, width, 3), not (2, 3, 8, 8)"),
        (images(2)[..., 0], ValueError, "the channels last, (n, height, width, 3), not (2, 8, 8)"),
        (images(2)[..., :1], ValueError, "the channels last, (n, height, width, 3), not (2, 8, 8, 1)"),
        (images(2)[..., [0, 1, 2, 2]], ValueError, "the channels last, (n, height, width, 3), not (2, 8, 8, 4)"),
        (images(2)[0], ValueError, "the channels last, (n, height, width, 3), not (8, 8, 3)"),
        (images(2)[None], ValueError, "the channels last, (n, height, width, 3), not (1, 2, 8, 8, 3)"),
        ([images(1)], ValueError, "images[0] must be RGB with the channels last, (height, width, 3), not (1, 8, 8, 3)"),
        ([images(1)[0], images(1)[0, 0]], ValueError, "images[1] must be RGB with the channels last"),
        (images(0), ValueError, "images is empty: its shape is (0, 8, 8, 3)"),
        (images(2, 0, 8), ValueError, "images is empty: its shape is (2, 0, 8, 3)"),
        ([images(1)[0], images(1, 8, 0)[0]], ValueError, "images[1] is empty: its shape is (8, 0, 3)"),
        ([], ValueError, "images is empty: give at least one image"),
    ],
)
def test_wrong_inputs_are_a_sentence(given: Any, error: type[Exception], says: str) -> None:
    """Another type, layout or range is said in one line: which image, what is right, what came."""
    with pytest.raises(error) as raised:
        model()(given)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


# ---- the folder


def test_a_folder_gives_the_encoder_that_was_saved(trained: Path) -> None:
    """Class, arguments, weights and preprocessing come back from the folder."""
    encode = _model.load(trained, "seed-0/encoder.safetensors")
    saved = load_file(trained / "seed-0" / "encoder.safetensors")
    assert (encode.features, encode.side) == (16, 8)
    assert encode.state_dict().keys() == {f"encoder.{name}" for name in saved}
    assert all(
        torch.equal(tensor, saved[name.removeprefix("encoder.")]) for name, tensor in encode.state_dict().items()
    )
    assert encode(images(2)).shape == (2, 16)


def test_loading_leaves_no_trace(trained: Path) -> None:
    """A folder is the same after it was loaded: no byte code beside the sources."""
    before = sorted(trained.rglob("*"))
    _model.load(trained, "seed-0/encoder.safetensors")
    assert sorted(trained.rglob("*")) == before


def test_foreign_weights_are_refused(trained: Path) -> None:
    """Weights that lack one of the encoder's are not loaded."""
    weights = load_file(trained / "seed-0" / "encoder.safetensors")
    del weights["conv1.weight"]
    save_file(weights, trained / "seed-0" / "encoder.safetensors")
    with pytest.raises(RuntimeError, match=r"Missing key.*conv1\.weight"):
        _model.load(trained, "seed-0/encoder.safetensors")


def test_the_self_test_passes_on_a_whole_export(exported: Path) -> None:
    """An export gives its golden features."""
    _model.load(exported).self_test()


@pytest.mark.parametrize("change", [1.001, float("nan")])
def test_the_self_test_finds_altered_weights(exported: Path, change: float) -> None:
    """One weight tensor off by a thousandth, or one that is not a number, is found."""
    weights = load_file(exported / "encoder.safetensors")
    weights["layer3.0.conv2.weight"] *= change
    save_file(weights, exported / "encoder.safetensors")
    with pytest.raises(RuntimeError, match=r"the golden features differ by .*: damaged or foreign weights"):
        _model.load(exported).self_test()


def test_only_an_export_can_test_itself(trained: Path) -> None:
    """A run's folder holds no golden features, and says so."""
    with pytest.raises(RuntimeError, match="only an export can test itself"):
        _model.load(trained, "seed-0/encoder.safetensors").self_test()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_export_is_byte_stable(trained: Path, tmp_path: Path) -> None:
    """Written twice, the same five files with the same bytes; loaded and saved again, the same weights."""
    for name in ("first", "second"):
        embed.export(trained, 0, Packed(images(embed.GOLDEN)), tmp_path / name)
    first = contents(tmp_path / "first")
    assert set(first) == {"model.py", "encoder.py", "config.json", "encoder.safetensors", "golden.safetensors"}
    assert first == contents(tmp_path / "second")
    _export.save_weights(_model.load(tmp_path / "first").encoder, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == first["encoder.safetensors"]


def test_weights_have_the_same_bytes_whatever_their_memory_format(tmp_path: Path) -> None:
    """Channels last is a matter of speed: files hold values in one order."""
    network = SmallResNet(width=4, blocks=1)
    _export.save_weights(network, tmp_path / "a")
    _export.save_weights(network.to(memory_format=torch.channels_last), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_config_is_plain_json(trained: Path) -> None:
    """Anybody can read what the encoder is."""
    assert json.loads((trained / "config.json").read_text()) == {
        "encoder": {"name": "small_resnet", "class": "SmallResNet", "arguments": {"width": 4, "blocks": 1}},
        "features": 16,
        "input": {"side": 8, "mean": list(MEAN), "std": list(STD)},
    }
