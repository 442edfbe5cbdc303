"""Stage `embed`: the features of every image, once, and the encoder as a folder that anybody can use.

data/encoders/<run>, data/datasets/<dataset>/{images, splits.parquet} → data/features/<evaluation>/
    seed-<k>.npy   float32 (n, d), row-aligned with the pixels
    pairs-<k>.npy  float32 (2, m, d), two views of the same images; pairs.npy int64 (m,) which rows they are
    taps.json      with `taps: true`: the names of the layers from the first to the last, "pool" for the features
    taps-<k>/<name>.npy   float32 (n, d) of each of the others, averaged over the image
→ data/exports/<evaluation>/
    model.py encoder.py config.json encoder.safetensors golden.safetensors   the first seed, self-contained
    encoder.pt2                                   its network, where encoder.py needs a package that others lack

python -m stages.embed simclr
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline import paths
from pipeline.errors import ParamsError
from pipeline.hardware import device_name
from pipeline.params import Hardware, Name
from pipeline.plugins import Spec, plugin
from pipeline.stage import Stage
from pipeline.stage import run as run_stage
from stages.datasets._prepared import Prepared
from stages.datasets._storage import Packed, Stored
from stages.encoders import _model
from stages.encoders._export import save_program, save_weights
from stages.encoders._input import trimmed
from stages.encoders._viewer import viewer
from stages.networks.heads import Projection, Projector
from stages.training.feed import Store, in_order, placed
from stages.views._draws import Source

GOLDEN = 8  # images in an export's self-test
PAIRS_SEED = 2**62  # the pairs are drawn once, the same for every encoder, and by no training


def embed(
    stage: Stage,
    *,
    hardware: Hardware,
    run: Name,
    dataset: Name,
    pairs: plugin("views"),  # type: ignore[valid-type]  # the annotation is made from the folder
    taps: bool,
    private: bool,
) -> None:
    """Features of all images and of paired views, for every seed of the run.

    taps: what every layer gives is kept too; private: none of the images is exported.
    """
    device = torch.device(device_name(hardware))
    prepared = Prepared(paths.dataset(dataset))
    folder, out = paths.encoder(run), stage.out(paths.features(stage.item))
    out.mkdir()
    rows = np.sort(np.concatenate([prepared.rows("validation"), prepared.rows("test")]))
    np.save(out / "pairs.npy", rows)
    with stage.device():
        store = placed(prepared.images, device)
        for seed in seeds(folder):
            model = _model.load(folder, f"seed-{seed}/encoder.safetensors").to(device)
            with tapped(model.encoder.taps() if taps else {}) as found:  # type: ignore[operator]  # nn.Module hides it
                given = features(model, store, stage.check)
            np.save(out / f"seed-{seed}.npy", given)
            if taps:
                save_taps(out, seed, found, projected(folder, seed, given))
            np.save(out / f"pairs-{seed}.npy", paired(model, store, rows, pairs, stage.check))
    shown = noise(prepared.images) if private else prepared.images
    export(folder, seeds(folder)[0], shown, stage.out(paths.export(stage.item)))


def seeds(folder: Path) -> list[int]:
    """The seeds that a run has trained, in order."""
    return sorted(int(path.name.removeprefix("seed-")) for path in folder.glob("seed-*"))


def features(model: _model.Model, images: Store, check: Callable[[], None]) -> np.ndarray:
    """float32 (n, d) of n images, a chunk at a time; `check` is called after each, to stop."""
    parts = []
    for part in in_order(images, torch.arange(len(images)), _model.CHUNK, model.mean.device):
        parts.append(model(trimmed(part)).cpu().numpy())
        check()
    return np.concatenate(parts)


@contextmanager
def tapped(layers: dict[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """While it is open: what each of the layers gives, by name, a tensor (n, d) every time that it runs."""
    found: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keep(name: str) -> Callable[..., None]:
        return lambda layer, given, output: found[name].append(averaged(output.float()).cpu())

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def averaged(output: Tensor) -> Tensor:
    """(n, d) of what a layer gives: the mean over the image of (n, d, h, w), over the tokens of (n, tokens, d)."""
    return output.mean(dim=(2, 3)) if output.ndim == 4 else output.mean(dim=1) if output.ndim == 3 else output


def projected(folder: Path, seed: int, features: np.ndarray) -> dict[str, Tensor]:
    """What every layer of the run's projector makes of features (n, d), "projector.1" first; none without one."""
    projection = json.loads((folder / "config.json").read_text()).get("projector")
    if projection is None:
        return {}
    projector = Projector(features.shape[1], Projection(**projection)).eval()
    projector.load_state_dict(load_file(folder / f"seed-{seed}" / "projector.safetensors"))
    found, z = {}, torch.from_numpy(features)
    with torch.inference_mode():
        for place, layer in enumerate(projector.layers, 1):
            found[f"projector.{place}"] = z = layer(z)
    return found


def save_taps(out: Path, seed: int, encoder: dict[str, list[Tensor]], projector: dict[str, Tensor]) -> None:
    """taps.json and the folder of one seed; what the encoder gives at last is in the features already."""
    folder = out / f"taps-{seed}"
    folder.mkdir()
    layers = {name: torch.cat(parts) for name, parts in encoder.items()} | projector
    for name, found in layers.items():
        np.save(folder / f"{name}.npy", found.numpy())
    (out / "taps.json").write_text(json.dumps([*encoder, "pool", *projector]) + "\n")


def paired(model: _model.Model, images: Store, rows: np.ndarray, pairs: Spec, check: Callable[[], None]) -> np.ndarray:
    """float32 (2, m, d): features of two views of every row's image; `check` is called after each chunk, to stop."""
    make_views = viewer(pairs, model)
    device = model.mean.device
    parts: list[Tensor] = []
    every = torch.from_numpy(rows)
    chunks = in_order(images, every, _model.CHUNK, device)
    for index, chunk in zip(every.split(_model.CHUNK), chunks, strict=True):
        with torch.inference_mode():
            views = make_views(chunk, Source(seed=PAIRS_SEED, epoch=0, index=index.to(device)))
            if len(views) != 2:
                raise ParamsError(
                    f"params.yaml: `pairs` needs 2 views of an image, and {pairs.name} makes {len(views)}"
                )
            parts.append(torch.stack([model.encoder(view).float() for view in views]).cpu())
        check()
    return torch.cat(parts, dim=1).numpy()


def noise(images: Stored) -> Packed:
    """As many images as an export shows itself, as large as these, and nothing in them."""
    return Packed(np.random.default_rng(0).integers(0, 256, (GOLDEN, *images.canvas, 3), np.uint8))


def export(folder: Path, seed: int, images: Stored, out: Path) -> None:
    """The encoder of one seed, with images to test itself against: the first ones, cut to the size that all have."""
    out.mkdir()
    for name in ("model.py", "encoder.py", "config.json"):
        shutil.copyfile(folder / name, out / name)
    model = _model.load(folder, f"seed-{seed}/encoder.safetensors")
    save_weights(model.encoder, out / "encoder.safetensors")
    pixels, extents = images.read(np.arange(min(GOLDEN, len(images))))
    height, width = images.canvas if extents is None else extents.min(axis=0)
    inputs = torch.from_numpy(np.ascontiguousarray(pixels[:, :height, :width]))
    save_file({"inputs": inputs, "outputs": model(inputs).contiguous()}, out / "golden.safetensors")
    if "needs" in model.config["encoder"]:
        save_program(model.encoder, model.side, out / "encoder.pt2")


if __name__ == "__main__":
    run_stage(embed)
