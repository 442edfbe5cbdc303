"""The Vision Transformer is the paper's and timm's; the encoder `timm` is timm's own network."""

import sys
from typing import Any

import pytest
import timm
import torch
from encoder_cases import SIDE, specify
from torch import Tensor, nn

from pipeline.errors import ParamsError
from stages.encoders._initial import initialized
from stages.encoders.timm import Timm
from stages.encoders.vit import VisionTransformer


def shapes(network: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(tensor.shape)) for name, tensor in network.state_dict().items()]


# ---- the Vision Transformer


class Reference(nn.Module):
    """The paper's encoder written with torch's own layers: pre-norm, GELU, biases."""

    def __init__(self, side: int, patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(torch.zeros(1, 1 + (side // patch) ** 2, width))
        self.patches = nn.Conv2d(3, width, patch, patch)
        layers = [
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True)
            for _ in range(depth)
        ]
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(width, 1e-6)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.place
        return self.norm(self.layers(x))


NAMES = {  # ours: torch's
    "cls_token": "token",
    "pos_embed": "place",
    "patch_embed.proj": "patches",
    "blocks": "layers",
    "attn.qkv.": "self_attn.in_proj_",
    "attn.proj": "self_attn.out_proj",
    "mlp.fc1": "linear1",
    "mlp.fc2": "linear2",
}


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_vit_is_the_papers_encoder(pool: Any) -> None:
    """With the same weights, the features of torch's transformer layers around a patch embedding."""
    own = VisionTransformer(side=32, patch=4, width=48, depth=3, heads=4, pool=pool).eval()
    theirs = Reference(32, 4, 48, 3, 4).train()  # in eval mode torch takes a fused path
    with torch.no_grad():
        for weight in own.parameters():
            weight.add_(torch.randn_like(weight) / 20)
    weights = own.state_dict()
    for ours, torchs in NAMES.items():
        weights = {name.replace(ours, torchs): weight for name, weight in weights.items()}
    theirs.load_state_dict(weights)
    given = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = theirs(given)
        expected = tokens[:, 0] if pool == "class" else tokens[:, 1:].mean(1)
        torch.testing.assert_close(own(given), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("side", "patch"), [(224, 16), (32, 4)])
@pytest.mark.parametrize("pool", ["class", "mean"])
def test_vit_is_timms(side: int, patch: int, pool: Any) -> None:
    """Names, order and shapes of the state_dict are timm's, and with its weights so are the features."""
    own = VisionTransformer(side=side, patch=patch, width=192, depth=12, heads=3, pool=pool).eval()
    pooled = {} if pool == "class" else {"global_pool": "avg", "fc_norm": False}
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=side, patch_size=patch, **pooled).eval()
    assert shapes(own) == shapes(theirs)
    own.load_state_dict(theirs.state_dict())
    given = torch.randn(1, 3, side, side)
    with torch.inference_mode():
        torch.testing.assert_close(own(given), theirs(given), rtol=1e-5, atol=1e-5)


def test_vit_starts_as_timms_does() -> None:
    """Every weight is drawn as widely as timm draws it."""
    own = VisionTransformer(side=32, patch=4, width=192, depth=1, heads=3, pool="class")
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, patch_size=4, depth=1)
    for (name, ours), timms in zip(own.named_parameters(), theirs.parameters(), strict=True):
        assert ours.std().item() == pytest.approx(timms.std().item(), rel=0.2), name


# ---- timm


def test_timm_gives_timms_network() -> None:
    """The network itself, under its own names, without a classifier."""
    network = Timm(model="resnet18", arguments={})
    assert type(network) is type(timm.create_model("resnet18"))
    assert not [name for name in network.state_dict() if name.startswith("fc.")]
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 512)


def test_without_timm_a_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package is missing, the one line that installs it."""
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ParamsError, match=r"needs a package: `pip install -e '\.\[timm\]'`"):
        initialized(specify("timm"), "fresh.py", SIDE, torch.device("cpu"))
