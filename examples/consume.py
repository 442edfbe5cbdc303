"""Use a registered encoder: nothing of this project is needed, only mlflow, torch, numpy and safetensors.

MLFLOW_TRACKING_URI=sqlite:////path/to/.mlflow/mlflow.db python consume.py models:/digits-encoder@champion
"""

import sys

import mlflow
import numpy as np

encoder = mlflow.pyfunc.load_model(sys.argv[1] if len(sys.argv) > 1 else "models:/digits-encoder@champion")

# Any uint8 RGB images: here two squares, one of them brighter, and noise, each of its own size.
random = np.random.default_rng(0)
square = np.zeros((32, 32, 3), np.uint8)
square[8:24, 8:24] = 160
brighter = np.where(square > 0, 220, 0).astype(np.uint8)
noise = random.integers(0, 256, (24, 40, 3), dtype=np.uint8)

features = encoder.predict([square, brighter, noise], params={"normalize": True})
print(f"{len(features)} images, {features.shape[1]} features each, {features.dtype}")
for name, other in (("a brighter square", features[1]), ("noise", features[2])):
    print(f"cosine similarity of the square to {name}: {features[0] @ other:.3f}")
