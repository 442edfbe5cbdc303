"""Use a registered encoder on a folder: needs only mlflow, torch, numpy, safetensors and Pillow.

export MLFLOW_TRACKING_URI=sqlite:////path/to/.mlflow/mlflow.db
python encode.py models:/digits-encoder@champion photos features.npz

features.npz holds `files`, paths below the folder, and `features`, float32 (n, d), each of length 1: the dot product of
two is their cosine similarity.
"""

import sys
from pathlib import Path

import mlflow
import numpy as np
import torch

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
BATCH = 256  # images in memory at a time

if len(sys.argv) != 4:
    sys.exit("usage: encode.py MODEL FOLDER FILE.npz")
model, folder, out = sys.argv[1:]
files = sorted(file for file in Path(folder).rglob("*") if file.suffix.lower() in SUFFIXES)
if not files:
    sys.exit(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))})")
device = "cuda" if torch.cuda.is_available() else "cpu"
encoder = mlflow.pyfunc.load_model(model, model_config={"device": device})

parts = []
for start in range(0, len(files), BATCH):
    batch = [file.read_bytes() for file in files[start : start + BATCH]]
    parts.append(encoder.predict(batch, params={"normalize": True}))
    print(f"{start + len(batch)} of {len(files)} images", end="\r", file=sys.stderr)
features = np.concatenate(parts)
np.savez(out, files=[file.relative_to(folder).as_posix() for file in files], features=features)
print(f"{len(files)} images, {features.shape[1]} features each: {out}")
