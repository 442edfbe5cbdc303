"""Networks that are kept: what every one of them must do, found by folder.

A new encoder is tested by existing: it needs a line in SETTINGS of encoder_cases.py and nothing else.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from encoder_cases import SETTINGS, SIDE, images, leave, network
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import plugins
from pipeline.errors import ParamsError
from stages import embed
from stages.datasets._storage import Packed
from stages.encoders import _export, _model
from stages.encoders._initial import initialized

ENCODERS = plugins.names("encoders")
CPU = torch.device("cpu")


def views(count: int, seed: int = 0) -> Tensor:
    """Normalized images (count, 3, SIDE, SIDE)."""
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ENCODERS)
def test_features_are_as_wide_as_told(name: str) -> None:
    """One float32 vector an image, of the width that config.json gives."""
    with torch.inference_mode():
        found = network(name)(views(3))
    assert found.shape == (3, _export.features_of(network(name), SIDE, CPU))
    assert found.dtype == torch.float32


@pytest.mark.parametrize("name", ENCODERS)
def test_features_are_those_of_the_image_alone(name: str) -> None:
    """In eval mode twice the same bits, and in other company the same features."""
    encode, given = network(name), views(5)
    with torch.inference_mode():
        whole = encode(given)
        assert torch.equal(encode(given), whole)
        torch.testing.assert_close(torch.cat([encode(given[:1]), encode(given[1:])]), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_state_dict_is_all_there_is(name: str) -> None:
    """Another seed gives other weights; with the state_dict of the first it gives the bits of the first."""
    first, second, given = network(name), network(name, seed=1), views(4)
    with torch.inference_mode():
        if first.state_dict():
            assert not torch.equal(first(given), second(given))
        second.load_state_dict(first.state_dict())
        assert torch.equal(first(given), second(given))


@pytest.mark.parametrize("name", ENCODERS)
def test_gradient_reaches_every_weight(name: str) -> None:
    """In a training step no weight is without a finite gradient, none has only zeros."""
    encode = network(name).train()
    found = encode(views(4).requires_grad_())
    (found * torch.randn(found.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    for label, weight in encode.named_parameters():
        assert weight.grad is not None, label
        assert weight.grad.isfinite().all(), label
        assert weight.grad.any(), label


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_runs_in_bf16(name: str) -> None:
    """Under autocast the features are close to those in full precision."""
    encode, given = network(name), views(4)
    with torch.inference_mode():
        exact = encode(given)
        with torch.autocast("cpu", torch.bfloat16):
            rough = encode(given).float()
    assert (rough - exact).norm() < 0.03 * exact.norm()


EMBED = """
import sys
from pathlib import Path
import numpy as np
from stages import embed
from stages.datasets._storage import Packed
embed.export(Path(sys.argv[1]), 0, Packed(np.load(sys.argv[2])), Path(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every encoder as a run and an export of it."""
    root = tmp_path_factory.mktemp("exports")
    for name in ENCODERS:
        run = leave(root / f"run-{name}", name, SIDE)
        embed.export(run, 0, Packed(images(embed.GOLDEN)), root / name)
    return {name: root / name for name in ENCODERS}


ALONE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"pipeline", "stages", "torchvision", "timm", "pydantic", "yaml", "ruamel"}:
            raise ImportError(f"{name} is hidden")

sys.meta_path.insert(0, Hidden())
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import torch
from model import load
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
features = {}
for folder in sys.argv[3:]:
    encode = load(folder)
    encode.self_test()
    features[folder] = encode(load_file(sys.argv[2])["images"])
    for count in (1, 2, 9):
        assert encode(torch.zeros(count, 5, 9, 3, dtype=torch.uint8)).shape == (count, encode.features)
save_file(features, sys.argv[2])
"""


def test_an_export_runs_alone(exports: dict[str, Path], tmp_path: Path) -> None:
    """A fresh interpreter without this project, torchvision or timm gives the same bits, for any number of images."""
    folders, file = {name: str(folder) for name, folder in exports.items()}, tmp_path / "images.safetensors"
    given = torch.from_numpy(images(20, 12, 20, seed=1))
    save_file({"images": given}, file)
    command = [sys.executable, "-I", "-c", ALONE, folders["pixels"], str(file), *folders.values()]
    subprocess.run(command, cwd=tmp_path, check=True)
    found = load_file(file)
    for name, folder in folders.items():
        inside = _model.load(exports[name].with_name(f"run-{name}"), "seed-0/encoder.safetensors")
        assert torch.equal(found[folder], inside(given)), name


@pytest.mark.parametrize("name", ENCODERS)
def test_an_export_moves_as_a_whole(exports: dict[str, Path], name: str) -> None:
    """Nothing stays on the CPU when the model is moved (to the meta device, which computes shapes only)."""
    encode = _model.load(exports[name]).to("meta")
    assert encode(images(3)).shape == (3, encode.features)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_export_says_nothing_of_where_it_was_made(exports: dict[str, Path], name: str) -> None:
    """No file holds a path of this machine."""
    places = [str(exports[name].parent), str(Path(torch.__file__).parent), str(Path(timm.__file__).parent)]
    text = b"".join(path.read_bytes() for path in exports[name].iterdir())
    assert [place for place in places if place.encode() in text] == []


def test_a_program_is_byte_stable(exports: dict[str, Path], tmp_path: Path) -> None:
    """Only an encoder that needs a package is exported as a program; another process writes the same bytes."""
    assert [name for name in ENCODERS if (exports[name] / "encoder.pt2").exists()] == ["timm"]
    np.save(tmp_path / "images.npy", images(embed.GOLDEN))
    run = exports["timm"].with_name("run-timm")
    command = [sys.executable, "-c", EMBED, str(run), str(tmp_path / "images.npy"), str(tmp_path / "again")]
    subprocess.run(command, check=True)
    for path in exports["timm"].iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("block", "side", "says"),
    [
        ({"name": "small_resnet", "width": 4, "blocks": 1}, 3, "images of at least 4×4 pixels, not 3×3"),
        ({**SETTINGS["resnet"], "name": "resnet"}, 7, "images of at least 8×8 pixels, not 7×7"),
        (
            {**SETTINGS["resnet"], "name": "resnet", "stem": "imagenet"},
            16,
            "of at least 32×32 pixels, not 16×16",
        ),
        ({**SETTINGS["vit"], "name": "vit"}, 12, "images of 16×16 pixels, not 12×12"),
        ({**SETTINGS["vit"], "name": "vit", "patch": 5}, 16, "patches of 5 pixels do not tile images of side 16"),
        ({**SETTINGS["vit"], "name": "vit", "heads": 7}, 16, "width 24 cannot be split among 7 heads"),
        (
            {"name": "timm", "model": "resnet81", "arguments": {}},
            16,
            "has no model 'resnet81'; near it are resnet18",
        ),
        (
            {"name": "timm", "model": "resnet18", "arguments": {"sides": 3}},
            16,
            "not make a resnet18 of {'sides': 3}",
        ),
        ({"name": "timm", "model": "vit_tiny_patch16_224", "arguments": {}}, 32, "(32) doesn't match model (224)"),
        ({"name": "timm", "model": "convnext_atto", "arguments": {}}, 8, "Kernel size can't be greater than actual"),
    ],
)
def test_what_an_encoder_cannot_take_is_a_sentence(block: dict[str, Any], side: int, says: str) -> None:
    """Images of a wrong size, or arguments that do not go together, are refused before anything is trained."""
    encoder = plugins.specify("encoders", block, "runs.a.encoder")
    with pytest.raises(ParamsError) as refused:
        initialized(encoder, "fresh.py", side, CPU)
    assert f"params.yaml: the encoder {block['name']} with input.side {side}: " in str(refused.value)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_says_which_timm_it_needs(exports: dict[str, Path]) -> None:
    """Name and version of the package are in config.json, of those encoders alone that need one."""
    needs = {name: json.loads((exports[name] / "config.json").read_text())["encoder"].get("needs") for name in ENCODERS}
    assert needs == dict.fromkeys(ENCODERS) | {"timm": f"timm=={timm.__version__}"}
