"""Networks that are kept, and the folder in which they leave: what goes in is pixels, what comes out is features.

Claims, in this order: the ResNets are torchvision's; the small networks have the shapes they say; a model's
preprocessing is what one computes by hand; every wrong input is a sentence; an export runs alone and is byte-stable.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from pipeline import plugins
from stages import embed
from stages.encoders import _export, _model
from stages.encoders.pixels import Pixels
from stages.encoders.resnet import ResNet
from stages.encoders.small_resnet import SmallResNet

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def images(count: int, height: int = 8, width: int = 8, seed: int = 0) -> np.ndarray:
    """uint8 (count, height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def model(encoder: nn.Module | None = None, side: int = 8, features: int = 0) -> _model.Model:
    """A model without a folder; by default its features are the preprocessed pixels."""
    config = {"features": features or 3 * side**2, "input": {"side": side, "mean": list(MEAN), "std": list(STD)}}
    return _model.Model(encoder or Pixels(), config)


def stir(network: nn.Module) -> None:
    """Give every normalization statistics of its own."""
    for name, statistic in network.named_buffers():
        if name.endswith("running_mean"):
            statistic.uniform_(-0.1, 0.1)
        elif name.endswith("running_var"):
            statistic.uniform_(0.5, 1.5)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """The folder of a run with one seed, as pretrain leaves it."""
    spec = plugins.specify("encoders", {"name": "small_resnet", "width": 4, "blocks": 1}, "runs.a.encoder")
    torch.manual_seed(3)
    encoder = spec.make()
    stir(encoder)
    features = _export.features_of(encoder, 8, torch.device("cpu"))
    folder = tmp_path / "encoders" / "a"
    _export.write(folder, spec, _export.describe(spec, features, 8, MEAN, STD))
    (folder / "seed-0").mkdir()
    _export.save_weights(encoder, folder / "seed-0" / "encoder.safetensors")
    return folder


@pytest.fixture
def exported(trained: Path, tmp_path: Path) -> Path:
    """An export of it, as embed leaves it."""
    embed.export(trained, 0, images(embed.GOLDEN), tmp_path / "export")
    return tmp_path / "export"


# ---- the ResNets


@pytest.fixture(params=[18, 34, 50])
def depth(request: pytest.FixtureRequest) -> Any:
    return request.param


def reference(depth: int) -> nn.Module:
    """Torchvision's network without its classifier, in eval mode, with statistics of its own."""
    torch.manual_seed(depth)
    network = getattr(torchvision.models, f"resnet{depth}")(weights=None)
    network.fc = nn.Identity()
    stir(network)
    return network.eval()


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def test_resnet_has_torchvisions_names(depth: Any) -> None:
    """Names, order and shapes of the state_dict are torchvision's, so weights move both ways."""
    own = ResNet(depth=depth, stem="imagenet", zero_init_residual=False)
    assert list(shapes(own).items()) == list(shapes(reference(depth)).items())


def test_resnet_gives_torchvisions_features(depth: Any) -> None:
    """With torchvision's weights, torchvision's features."""
    theirs = reference(depth)
    own = ResNet(depth=depth, stem="imagenet", zero_init_residual=False).eval()
    own.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(own(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_the_cifar_stem_differs_in_its_first_weight_only(depth: Any) -> None:
    """`stem: cifar` is a 3×3 kernel; every other weight has torchvision's shape."""
    own = shapes(ResNet(depth=depth, stem="cifar", zero_init_residual=False))
    assert own.pop("conv1.weight") == (64, 3, 3, 3)
    theirs = shapes(reference(depth))
    assert theirs.pop("conv1.weight") == (64, 3, 7, 7)
    assert own == theirs


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_resnet_widths(depth: Any, stem: Any) -> None:
    """512 features at depth 18 and 34, 2048 at depth 50, whatever the stem and the size."""
    network = ResNet(depth=depth, stem=stem, zero_init_residual=False)
    assert _export.features_of(network, 32, torch.device("cpu")) == (2048 if depth == 50 else 512)


@pytest.mark.parametrize(("stem", "size", "side"), [("imagenet", 64, 16), ("imagenet", 224, 56), ("cifar", 32, 32)])
def test_stems_reduce_as_they_say(stem: Any, size: int, side: int) -> None:
    """The first stage sees a quarter of the side under `imagenet`, all of it under `cifar`."""
    network = ResNet(depth=18, stem=stem, zero_init_residual=False).eval()
    seen: list[Tensor] = []
    network.layer1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        network(torch.zeros(1, 3, size, size))
    assert seen[0].shape == (1, 64, side, side)


def test_zero_init_residual(depth: Any) -> None:
    """It sets the scale of the last normalization of every block to zero, and of no other."""
    network = ResNet(depth=depth, stem="cifar", zero_init_residual=True)
    zero = {name for name, p in network.named_parameters() if name.endswith("weight") and not p.any()}
    last = "bn3.weight" if depth == 50 else "bn2.weight"
    assert zero == {name for name, _ in network.named_parameters() if name.startswith("layer") and name.endswith(last)}


# ---- the small networks


def test_small_resnet_is_three_stages_that_double() -> None:
    """Width w, 2w and 4w at a half and a quarter of the side; two convolutions a block, two projections, one stem."""
    network = SmallResNet(width=6, blocks=2).eval()
    seen: list[Tensor] = []
    for layer in (network.layer1, network.layer2, network.layer3):
        layer.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.inference_mode():
        assert network(torch.rand(2, 3, 16, 12)).shape == (2, 24)
    assert [tuple(x.shape) for x in seen] == [(2, 6, 16, 12), (2, 12, 8, 6), (2, 24, 4, 3)]
    assert sum(isinstance(m, nn.Conv2d) for m in network.modules()) == 1 + 3 * 2 * 2 + 2


def test_small_resnet_takes_the_smallest_images() -> None:
    """Four pixels a side are enough."""
    assert SmallResNet(width=2, blocks=1).eval()(torch.rand(1, 3, 4, 4)).shape == (1, 8)


def test_pixels_are_the_image() -> None:
    """Channel by channel, row by row; there is nothing to learn."""
    x = torch.rand(2, 3, 4, 5)
    assert torch.equal(Pixels()(x), x.reshape(2, 60))
    assert not list(Pixels().state_dict())


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
        embed.export(trained, 0, images(embed.GOLDEN), tmp_path / name)
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


ALONE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"pipeline", "stages", "torchvision", "pydantic", "yaml", "ruamel"}:
            raise ImportError(f"{name} is hidden")

sys.meta_path.insert(0, Hidden())
sys.dont_write_bytecode = True
folder = sys.argv[1]
sys.path.insert(0, folder)
import torch
from model import load

encode = load(folder)
encode.self_test()
print(tuple(encode(torch.zeros(2, 5, 9, 3, dtype=torch.uint8)).shape), encode.features)
"""


def test_an_export_runs_alone(exported: Path) -> None:
    """A fresh interpreter without this project and without torchvision loads the folder and passes its self-test."""
    found = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(exported)], cwd=exported, capture_output=True, text=True, check=False
    )
    assert found.stdout.split("\n")[0] == "(2, 16) 16", found.stderr
