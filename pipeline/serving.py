"""The registered encoder: MLflow runs this file when it loads the model, beside the exported folder that it wraps.

    encoder = mlflow.pyfunc.load_model("models:/digits-encoder@champion")
    encoder.predict(images, params={"normalize": True})      # float32 (n, d)

Images are uint8 RGB of any size, an array (n, height, width, 3) or a list of arrays (height, width, 3); or encoded
(PNG, JPEG, ...; needs Pillow), as a list of bytes or a data frame with one column of bytes. Resizing and normalization
are inside. Over HTTP, `mlflow models serve -m models:/digits-encoder@champion` takes at /invocations

    {"inputs": ["<base64 of an encoded image>", ...], "params": {"normalize": true}}

or nested lists of numbers 0 to 255 as "inputs", and answers {"predictions": [[...], ...]}. A GPU is asked for with
`load_model(..., model_config={"device": "cuda"})`. Nothing of the project that trained the model is imported.
"""

import base64
import binascii
import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

PIXELS = "uint8 RGB (n, height, width, 3) with values 0 to 255"


class Encoder(PythonModel):
    """Images to features."""

    def load_context(self, context: Any) -> None:
        """Load the exported folder; RuntimeError if it does not give its golden features again."""
        folder = Path(context.artifacts["encoder"])
        spec = importlib.util.spec_from_file_location("model", folder / "model.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.model = module.load(folder).to(context.model_config["device"])
        self.model.self_test()

    # MLflow wants a type here, and leaves the input alone for this one
    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Features float32 (n, d), of length 1 where params say {"normalize": True}; a wrong input is a sentence."""
        features = self.model(images(model_input)).cpu().numpy()
        if (params or {}).get("normalize"):
            features /= np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
        return features


def images(given: Any) -> np.ndarray | list[np.ndarray]:
    """What a caller may give, as what the exported model takes."""
    if hasattr(given, "columns"):
        if len(given.columns) != 1:
            raise ValueError(f"the data frame must have one column, of encoded images, not {list(given.columns)}")
        given = given.iloc[:, 0].tolist()
    if isinstance(given, np.ndarray):
        return _pixels(given.tolist() if given.dtype.kind in "SUO" else given)
    if not isinstance(given, list):
        raise TypeError(f"images must be an array {PIXELS}, or a list of images, not {type(given).__name__}")
    return _pixels(given)


def _pixels(given: Any) -> np.ndarray | list[np.ndarray]:
    if isinstance(given, np.ndarray):
        return _bytes_of(given, "images")
    if any(isinstance(image, bytes | str) for image in given):
        return [_decoded(image, f"images[{k}]") for k, image in enumerate(given)]
    return [_bytes_of(_array(image, f"images[{k}]"), f"images[{k}]") for k, image in enumerate(given)]


def _array(image: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(image)
    except ValueError:
        raise ValueError(f"{name} is ragged: an image is (height, width, 3)") from None


def _bytes_of(pixels: np.ndarray, name: str) -> np.ndarray:
    """Writable uint8; the int64 that JSON's numbers become counts if its values fit, a float never does."""
    if pixels.dtype == np.int64 and pixels.size and pixels.min() >= 0 and pixels.max() <= 255:
        return pixels.astype(np.uint8)
    if pixels.dtype != np.uint8:
        reach = f" from {pixels.min()} to {pixels.max()}" if pixels.size and pixels.dtype.kind in "iuf" else ""
        raise TypeError(f"{name} must be {PIXELS}, not {pixels.dtype}{reach}")
    return pixels if pixels.flags.writeable else pixels.copy()


def _decoded(image: Any, name: str) -> np.ndarray:
    """Encoded bytes, or their base64 → uint8 (height, width, 3), upright."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise RuntimeError("encoded images need Pillow (pip install pillow); arrays do not") from None
    try:
        data = base64.b64decode(image, validate=True) if isinstance(image, str) else image
        with Image.open(io.BytesIO(data)) as opened:
            if opened.mode.startswith(("I", "F")):
                raise ValueError("it has more than 8 bits per channel")
            return np.array(ImageOps.exif_transpose(opened).convert("RGB"))
    except (binascii.Error, OSError, ValueError, TypeError) as error:
        reason = str(error).partition(" <")[0]  # Pillow names its buffer
        raise ValueError(f"{name} is not an encoded image (PNG, JPEG, ...): {reason}") from None


set_model(Encoder())
