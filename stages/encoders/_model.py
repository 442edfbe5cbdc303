"""A trained encoder as a function from images to features; torch only, exported beside the weights as `model.py`.

    import sys; sys.path.insert(0, "data/exports/simclr")
    from model import load
    encode = load("data/exports/simclr")
    features = encode(images)        # uint8 (n, h, w, 3) RGB of any size → float32 (n, d)

    classify = load_classifier("data/classifiers/simclr", "10pct-draw-0")     # of a budget, drawn for the first time
    probabilities = classify(images)                                         # float32 (n, len(classify.classes))

A folder holds config.json, encoder.py (the network), the weights, and in an export golden.safetensors; encoder.pt2, the
network as a program of torch.export, where encoder.py needs a package that not everybody has. A folder of classifiers
holds for each encoder.safetensors and head.safetensors, linear layers with ReLU between them.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

CHUNK = 512  # images a forward pass
TOLERANCE = 1e-4  # of the golden features, across devices and instruction sets
ARRAY, LIST = "(n, height, width, 3)", "(height, width, 3)"  # how images have to lie


class Model(nn.Module):
    """An encoder in eval mode with its preprocessing inside."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, config: dict[str, Any], golden: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        self.encoder = encoder.to(memory_format=torch.channels_last)
        self.config = config
        self.features: int = config["features"]
        self.side: int = config["input"]["side"]
        self.register_buffer("mean", torch.tensor(config["input"]["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["input"]["std"]).view(1, 3, 1, 1), persistent=False)
        self.golden = golden
        self.eval()

    @torch.inference_mode()
    def forward(self, images: Any) -> Tensor:
        """Features float32 (n, d) of uint8 RGB images: an array or tensor (n, h, w, 3), or a list of (h, w, 3).

        TypeError or ValueError in one sentence for any other type, layout or range.
        """
        if isinstance(images, Sequence) and not isinstance(images, str | bytes):
            parts = [_checked(image, f"images[{k}]", LIST)[None] for k, image in enumerate(images)]
        else:
            parts = list(_checked(images, "images", ARRAY).split(CHUNK))
        if not parts:
            raise ValueError("images is empty: give at least one image")
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):  # TF32 keeps 3 digits
            return torch.cat([self.encoder(chunk).float() for chunk in self._chunks(parts)])

    def _chunks(self, parts: list[Tensor]) -> Iterator[Tensor]:
        """Preprocessed images, CHUNK at a time; a part holds at most that many, all of one size."""
        at_once = CHUNK // len(parts[0])
        for start in range(0, len(parts), at_once):
            yield torch.cat([self.preprocess(part) for part in parts[start : start + at_once]])

    def preprocess(self, images: Tensor) -> Tensor:
        """Uint8 (n, h, w, 3) → normalized float32 (n, 3, side, side), channels last; resized with antialias."""
        x = images.to(self.mean.device).permute(0, 3, 1, 2).float() / 255
        if x.shape[2:] != (self.side, self.side):
            x = interpolate(x, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False)
        return self.normalize(x).contiguous(memory_format=torch.channels_last)

    def normalize(self, images: Tensor) -> Tensor:
        """Float (n, 3, h, w) in [0, 1] → what the encoder was trained on."""
        return (images - self.mean) / self.std

    def self_test(self) -> None:
        """Raise RuntimeError unless the golden inputs give the golden features again."""
        if self.golden is None:
            raise RuntimeError("this folder has no golden.safetensors: only an export can test itself")
        worst = (self(self.golden["inputs"]).cpu() - self.golden["outputs"]).abs().max().item()
        limit = TOLERANCE * max(1.0, self.golden["outputs"].abs().max().item())
        if not worst <= limit:
            raise RuntimeError(
                f"the golden features differ by {worst:.1e} (limit {limit:.1e}): damaged or foreign weights"
            )


def build(folder: str | Path) -> nn.Module:
    """The network of a folder: its encoder.pt2 if there is one, else encoder.py with config.json and fresh weights."""
    folder = Path(folder)
    if (folder / "encoder.pt2").exists():
        program: nn.Module = torch.export.load(folder / "encoder.pt2").module()
        program.train = lambda mode=True: program  # type: ignore[method-assign]  # it has no modes, and says so by raising
        return program
    config = json.loads((folder / "config.json").read_text())
    source = folder / "encoder.py"
    names: dict[str, Any] = {"__name__": "encoder"}
    exec(compile(source.read_text(), source, "exec"), names)  # an import would leave byte code in the folder
    return names[config["encoder"]["class"]](**config["encoder"]["arguments"])


def load(folder: str | Path, weights: str = "encoder.safetensors") -> Model:
    """The encoder of `folder`, ready to use; move it with `.to(device)`."""
    folder = Path(folder)
    encoder = build(folder)
    encoder.load_state_dict(load_file(folder / weights))
    golden = folder / "golden.safetensors"
    config = json.loads((folder / "config.json").read_text())
    return Model(encoder, config, load_file(golden) if golden.exists() else None)


class Classifier(nn.Module):
    """A fine-tuned encoder and the layers on top of it."""

    def __init__(self, model: Model, head: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.classes: list[str] = model.config["classes"]

    @torch.inference_mode()
    def forward(self, images: Any) -> Tensor:
        """Probabilities float32 (n, classes) of uint8 RGB images, given as to a Model."""
        return self.head(self.model(images)).softmax(1)


def build_head(weights: dict[str, Tensor]) -> nn.Sequential:
    """Linear layers with ReLU between them: "0.weight", "0.bias", "2.weight" and so on."""
    layers: list[nn.Module] = []
    for name in sorted(name for name in weights if name.endswith(".weight")):
        width_out, width_in = weights[name].shape
        layers += [nn.ReLU(), nn.Linear(width_in, width_out)]
    head = nn.Sequential(*layers[1:])
    head.load_state_dict(weights)
    return head.eval()


def load_classifier(folder: str | Path, name: str) -> Classifier:
    """The classifier `name` of `folder`, a budget and one of its draws; move it with `.to(device)`."""
    model = load(folder, f"{name}/encoder.safetensors")
    return Classifier(model, build_head(load_file(Path(folder) / name / "head.safetensors")))


def _checked(images: Any, name: str, layout: str) -> Tensor:
    """What a caller gave as a tensor; `layout` is how it has to lie."""
    dtype = str(getattr(images, "dtype", type(images).__name__)).removeprefix("torch.")
    if dtype != "uint8":
        raise TypeError(f"{name} must be a uint8 array or tensor with values 0 to 255, not {dtype}")
    if len(images.shape) != layout.count(",") + 1 or images.shape[-1] != 3:
        raise ValueError(f"{name} must be RGB with the channels last, {layout}, not {tuple(images.shape)}")
    if 0 in images.shape:
        raise ValueError(f"{name} is empty: its shape is {tuple(images.shape)}")
    if isinstance(images, Tensor):
        return images
    flags = images.flags  # torch takes neither a read-only array nor one that runs backward
    return torch.as_tensor(images if flags.writeable and flags.c_contiguous else images.copy())
