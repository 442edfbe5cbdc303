"""The ResNets are torchvision's; the small networks have the shapes they say."""

from typing import Any

import pytest
import torch
import torchvision
from encoder_cases import stir
from torch import Tensor, nn

from stages.encoders import _export
from stages.encoders.pixels import Pixels
from stages.encoders.resnet import ResNet
from stages.encoders.small_resnet import SmallResNet

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
