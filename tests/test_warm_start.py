"""Claims about runs that start from weights.

- the encoder is found in a file wherever it lies, whatever lies beside it; a file that does not fit is refused in words
- a file that would run code is not read
- `init` goes with encoder, method and seeds, or params.yaml is refused
- every seed starts from the same weights; a run may start from another run's, which DVC then makes first
"""

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from encoder_cases import SETTINGS, SIDE, images, leave, network, specify
from params_study import planned
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline import graph, params, plugins
from pipeline.errors import ParamsError
from stages import pretrain
from stages.datasets._storage import Packed
from stages.encoders._initial import initialized, load
from stages.encoders.resnet import ResNet
from stages.training.loop import Images
from stages.training.randomness import seeded

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


def resnet() -> ResNet:
    return ResNet(depth=18, stem="imagenet", zero_init_residual=False)


@pytest.fixture(scope="module")
def theirs() -> dict[str, Tensor]:
    """The state_dict of torchvision's ResNet-18, classifier and all."""
    torch.manual_seed(7)
    return torchvision.models.resnet18(weights=None).state_dict()


def prefixed(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: weight for name, weight in weights.items()}


def has(encoder: nn.Module, weights: dict[str, Tensor]) -> bool:
    return all(torch.equal(weight, weights[name]) for name, weight in encoder.state_dict().items())


# ---- what a file may look like


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.encoder_q."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_an_encoder_is_found_wherever_it_lies(
    theirs: dict[str, Tensor], tmp_path: Path, prefix: str, wrapper: str | None
) -> None:
    """Under any prefix, in any wrapper; the classifier is left out and named."""
    content: dict[str, Any] = prefixed(prefix, theirs)
    if wrapper:
        content = {"epoch": 3, wrapper: content, "args": argparse.Namespace(rate=0.1), "loss": torch.zeros(())}
    torch.save(content, tmp_path / "found.pth")
    encoder = resnet()
    assert load(encoder, tmp_path / "found.pth") == ("fc (2), loss (1)" if wrapper else "fc (2)")
    assert has(encoder, theirs)


def test_safetensors_are_read(theirs: dict[str, Tensor], tmp_path: Path) -> None:
    """The same from a safetensors file, of half precision as well."""
    save_file({name: weight.half() for name, weight in theirs.items()}, tmp_path / "half.safetensors")
    encoder = resnet()
    load(encoder, tmp_path / "half.safetensors")
    assert encoder.conv1.weight.dtype == torch.float32
    assert torch.equal(encoder.conv1.weight, theirs["conv1.weight"].half().float())


@pytest.mark.parametrize(("first", "second", "taken"), [("encoder_q", "encoder_k", 0), ("student", "teacher", 1)])
def test_of_two_encoders_the_usual_one_is_taken(
    theirs: dict[str, Tensor], tmp_path: Path, first: str, second: str, taken: int
) -> None:
    """MoCo's file gives the network that was trained, DINO's the teacher; the other one is named as left out."""
    torch.manual_seed(8)
    pair = (theirs, torchvision.models.resnet18(weights=None).state_dict())
    content = {"state_dict": prefixed(f"module.{first}.", pair[0]) | prefixed(f"module.{second}.", pair[1])}
    content["state_dict"]["module.queue"] = torch.zeros(3)
    torch.save(content, tmp_path / "two.pth")
    encoder = resnet()
    left_out = load(encoder, tmp_path / "two.pth")
    assert has(encoder, pair[taken])
    assert f"{(first, second)[1 - taken]} (122)" in left_out
    assert "queue (1)" in left_out


def test_old_files_lack_a_counter(theirs: dict[str, Tensor], tmp_path: Path) -> None:
    """Older files of torchvision have no num_batches_tracked, which nothing reads: they load all the same."""
    old = {name: weight for name, weight in theirs.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    encoder = resnet()
    load(encoder, tmp_path / "old.pth")
    assert has(encoder, theirs)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layer2.0.conv1.weight": None}, "it lacks layer2.0.conv1.weight. "),
        (
            {f"bn1.{name}": None for name in ("weight", "bias", "running_mean", "running_var")},
            "it lacks bn1.weight, bn1",
        ),
        ({f"layer1.{k}.conv1.weight": None for k in (0, 1)} | {"fc.weight": None}, "1.0.conv1.weight, layer1.1.conv1"),
        ({f"layer4.{k}.conv1.weight": torch.zeros(3) for k in range(2, 8)}, "layer4.5.conv1.weight and 2 more. "),
        ({"layer1.0.conv3.weight": torch.zeros(3)}, "it has besides layer1.0.conv3.weight. "),
        ({"conv1.weight": torch.zeros(64, 3, 3, 3)}, "of another shape are conv1.weight 64×3×3×3 for 64×3×7×7. "),
    ],
)
@pytest.mark.parametrize("prefix", ["", "net.backbone."])
def test_weights_of_another_network_are_refused(
    theirs: dict[str, Tensor], tmp_path: Path, change: dict[str, Any], says: str, prefix: str
) -> None:
    """What is missing, what is too much and what has another shape is named, the first few of it; nothing is loaded."""
    weights = prefixed(prefix, {name: weight for name, weight in (theirs | change).items() if weight is not None})
    torch.save(weights, tmp_path / "other.pth")
    encoder = resnet()
    before = copy.deepcopy(encoder.state_dict())
    with pytest.raises(ParamsError) as refused:
        load(encoder, tmp_path / "other.pth")
    assert says in str(refused.value)
    assert ("net.backbone" in str(refused.value)) == bool(prefix)
    assert "Name and arguments of `encoder` must be those of the network" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert has(encoder, before)


def test_a_pooling_norm_is_no_classifier(tmp_path: Path) -> None:
    """The fc_norm of timm changes the features: without a place for it the file is refused, its head is not missed."""
    weights = network("vit").state_dict() | {"head.weight": torch.zeros(3, 24)}
    save_file(weights, tmp_path / "head.safetensors")
    assert load(network("vit"), tmp_path / "head.safetensors") == "head (1)"
    save_file(weights | {"fc_norm.weight": torch.zeros(24)}, tmp_path / "norm.safetensors")
    with pytest.raises(ParamsError, match=r"it has besides fc_norm\.weight"):
        load(network("vit"), tmp_path / "norm.safetensors")


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_file_that_would_run_code_is_not_read(theirs: dict[str, Tensor], tmp_path: Path) -> None:
    """Nothing of it runs, and the sentence says what to do with a file that one trusts."""
    torch.save({"state_dict": theirs, "extra": Harmful(tmp_path / "harm")}, tmp_path / "harmful.pth")
    with pytest.raises(ParamsError, match="cannot be read as weights and nothing else: where you trust it, save"):
        load(resnet(), tmp_path / "harmful.pth")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_damaged_file_is_a_sentence(theirs: dict[str, Tensor], tmp_path: Path, name: str) -> None:
    """A file that was cut short, and one that is something else."""
    file = tmp_path / name
    torch.save(theirs, file) if name.endswith("pth") else save_file(theirs, file)
    for content in (file.read_bytes()[:1000], b"<html>not found</html>", b""):
        file.write_bytes(content)
        with pytest.raises(ParamsError, match=f"{name} cannot be read as weights"):
            load(resnet(), file)


@pytest.mark.parametrize("name", [name for name in plugins.names("encoders") if name != "pixels"])
def test_every_encoder_takes_its_own_weights(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The weights that a run saved are a file to start from, and the line printed says so."""
    run = leave(tmp_path / "run", name, SIDE)
    init = str(run / "seed-0" / "encoder.safetensors")
    encoder, features = initialized(specify(name), init, SIDE, CPU)
    assert has(encoder, load_file(init))
    assert features == json.loads((run / "config.json").read_text())["features"]
    assert capsys.readouterr().out == f"weights from {init}\n"


# ---- what params.yaml may say


@pytest.fixture
def study() -> dict[str, Any]:
    return params.read(ROOT / "params.yaml")


def imported(study: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The study with its run `random` made one of weights from elsewhere."""
    run = {"method": {"name": "imported"}, "init": "data/raw/theirs.pth", "seeds": [0]}
    study["runs"]["random"] |= run | changes
    return study


def test_imported_weights_are_a_row_like_any_other(study: dict[str, Any]) -> None:
    """A run that starts from weights is accepted, one that trains on from them with any number of seeds."""
    params.check(imported(study))
    study["runs"]["simclr"]["init"] = "data/raw/theirs.safetensors"
    params.check(study)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"init": "stages/encoders/resnet.py"}, "random.init: must be stages/encoders/small_resnet.py, for weights as"),
        ({"init": "data/raw/theirs.zip"}, "or a file of weights inside the repository (.safetensors, .pth, .pt), not "),
        ({"init": "/home/me/theirs.pth"}, "inside the repository (.safetensors, .pth, .pt), not /home/me/theirs.pth"),
        ({"init": "../theirs.pth"}, "inside the repository (.safetensors, .pth, .pt), not ../theirs.pth"),
        ({"init": "stages/encoders/small_resnet.py"}, "the method imported shows weights from elsewhere, so init must"),
        ({"method": {"name": "random"}}, "the method random shows the untrained encoder, so init must be stages/enc"),
        ({"seeds": [0, 1]}, "random.seeds: all seeds would be one encoder, as they start from data/raw/theirs.pth"),
        ({"init": 3}, "random.init: must be text, not 3"),
    ],
)
def test_init_goes_with_encoder_method_and_seeds(study: dict[str, Any], changes: dict[str, Any], says: str) -> None:
    """What does not go together is refused before anything runs, with what would be right."""
    with pytest.raises(ParamsError) as refused:
        params.check(imported(study, **changes))
    assert str(refused.value).startswith("params.yaml: runs.random.")
    assert says in str(refused.value)


def test_an_encoder_of_one_size_gets_images_of_that_size(study: dict[str, Any]) -> None:
    """`side` of the encoder and of its input are the same."""
    study["runs"]["random"]["encoder"] = {"name": "vit", **SETTINGS["vit"]}
    study["runs"]["random"]["init"] = "stages/encoders/vit.py"
    with pytest.raises(
        ParamsError, match=r"random\.input\.side: the encoder takes images of side 16, so input.side must"
    ):
        params.check(study)
    study["runs"]["random"]["input"]["side"] = 16
    params.check(study)


def test_a_run_that_starts_from_another_follows_it(study: dict[str, Any], tmp_path: Path) -> None:
    """DVC trains the other run first; a run cannot start from itself."""
    weights = "data/encoders/simclr/seed-0/encoder.safetensors"
    nodes = {node.name: node for node in graph.read(planned(tmp_path / "chain", imported(study, init=weights)))}
    assert set(nodes["pretrain@random"].upstream) == {"prepare@digits", "pretrain@simclr"}
    assert weights in nodes["pretrain@random"].deps
    study["runs"]["simclr"]["init"] = weights
    with pytest.raises(graph.StageError, match="both a dependency and an output in stage: pretrain@simclr"):
        graph.read(planned(tmp_path / "circle", study))


# ---- what a run makes of it


def built(init: str, seed: int) -> Any:
    """The method `simclr` on the encoder `vit` as its run starts it."""
    pixels = Packed(images(4, SIDE, SIDE))
    given = Images(pixels, torch.full((4,), -1), torch.arange(4))
    projector = {"layers": 2, "hidden": 8, "out": 4, "norm": "all"}
    block = {"name": "simclr", "temperature": 0.5, "reduction": "paper", "projector": projector}
    view = pretrain.Input(side=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3)
    with seeded(seed, torch.device("cpu")):
        method = plugins.specify("methods", block, "runs.a.method")
        return pretrain.build(specify("vit"), init, method, view, given, 4, "images")[1]


def test_every_seed_starts_from_the_same_weights(tmp_path: Path) -> None:
    """The encoder is that of the file for every seed; what is around it is drawn by the seed, as without a file."""
    weights = str(leave(tmp_path / "run", "vit", SIDE) / "seed-0" / "encoder.safetensors")
    first, second, fresh = built(weights, 0), built(weights, 1), built("stages/encoders/vit.py", 0)
    assert has(first.encoder, load_file(weights))
    assert has(second.encoder, load_file(weights))
    assert not has(fresh.encoder, load_file(weights))
    projectors = [learner.projector.state_dict() for learner in (first, second, fresh)]
    assert all(torch.equal(projectors[0][name], projectors[2][name]) for name in projectors[0])
    assert not all(torch.equal(projectors[0][name], projectors[1][name]) for name in projectors[0])
