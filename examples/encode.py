"""Use a registered encoder on a folder: needs only mlflow, torch, numpy, safetensors and Pillow.

export MLFLOW_TRACKING_URI=sqlite:////path/to/.mlflow/mlflow.db
python encode.py models:/digits-encoder@champion photos features.npz

features.npz holds `files`, paths below the folder, and `features`, float32 (n, d), each of length 1: the dot product of
two is their cosine similarity. Files that cannot be decoded are named and left out.
"""

import sys
from pathlib import Path

import mlflow
import numpy as np
import torch
from PIL import Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
BATCH = 256  # images in memory at a time


def pixels(file: Path) -> np.ndarray | None:
    """An image as uint8 (height, width, 3); None, and a word about it, if it is none."""
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # decoders raise nearly anything
        print(f"left out: {file}: {error}", file=sys.stderr)
        return None


if len(sys.argv) != 4:
    sys.exit("usage: encode.py MODEL FOLDER FILE.npz")
model, folder, out = sys.argv[1:]
files = sorted(file for file in Path(folder).rglob("*") if file.suffix.lower() in SUFFIXES)
if not files:
    sys.exit(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))})")
device = "cuda" if torch.cuda.is_available() else "cpu"
try:
    encoder = mlflow.pyfunc.load_model(model, model_config={"device": device})
except mlflow.MlflowException as error:
    sys.exit(f"{model} cannot be loaded: {error}")

names, parts = [], []
for start in range(0, len(files), BATCH):
    images = {file: image for file in files[start : start + BATCH] if (image := pixels(file)) is not None}
    if images:
        names += [file.relative_to(folder).as_posix() for file in images]
        parts.append(encoder.predict(list(images.values()), params={"normalize": True}))
if not parts:
    sys.exit(f"none of the {len(files)} files in {folder} could be decoded")
features = np.concatenate(parts)
np.savez(out, files=names, features=features)
print(f"{len(names)} images, {features.shape[1]} features each: {out}")
