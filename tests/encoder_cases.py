"""What the tests of encoders share: every encoder small enough for a test, images, the folder of a run."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline import plugins
from pipeline.plugins import Spec
from stages.encoders import _export

SIDE = 16  # of the images that the encoders in SETTINGS take
TIMM = {"img_size": SIDE, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
SETTINGS: dict[str, dict[str, Any]] = {  # a tiny block of params.yaml for every encoder
    "pixels": {},
    "resnet": {"depth": 18, "stem": "cifar", "zero_init_residual": False},
    "small_resnet": {"width": 4, "blocks": 1},
    "timm": {"model": "vit_tiny_patch16_224", "arguments": TIMM},
    "vit": {"side": SIDE, "patch": 4, "width": 24, "depth": 2, "heads": 2, "pool": "class"},
}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def specify(name: str) -> Spec:
    return plugins.specify("encoders", {"name": name, **SETTINGS[name]}, f"runs.{name}.encoder")


def network(name: str, seed: int = 0) -> nn.Module:
    """The encoder `name` with weights of its own, in eval mode."""
    torch.manual_seed(seed)
    made = specify(name).make()
    stir(made)
    return made.eval()


def images(count: int, height: int = 8, width: int = 8, seed: int = 0) -> np.ndarray:
    """uint8 (count, height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def stir(network: nn.Module) -> None:
    """Give every normalization statistics of its own."""
    for name, statistic in network.named_buffers():
        if name.endswith("running_mean"):
            statistic.uniform_(-0.1, 0.1)
        elif name.endswith("running_var"):
            statistic.uniform_(0.5, 1.5)


def leave(folder: Path, name: str, side: int) -> Path:
    """The folder of a run with one seed, as pretrain leaves it."""
    encoder = network(name, seed=3)
    features = _export.features_of(encoder, side, torch.device("cpu"))
    _export.write(folder, specify(name), _export.describe(specify(name), features, side, MEAN, STD))
    (folder / "seed-0").mkdir()
    _export.save_weights(encoder, folder / "seed-0" / "encoder.safetensors")
    return folder
