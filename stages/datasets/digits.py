"""1797 handwritten digits of 8×8 pixels, embedded in scikit-learn (Alpaydin and Kaynak 1998, UCI test part)."""

import numpy as np

from stages.datasets._images import Images


def load(*, path: str) -> Images:
    """Gray values 0…16 scaled to 0…255 in three equal channels; no split of its own.

    path: this file, which stands for the data; nothing is read from it.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    gray = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return Images(
        pixels=np.repeat(gray[..., None], 3, axis=3),
        ids=[f"digits/{row:04d}" for row in range(len(gray))],
        labels=digits.target.astype(np.int64),
        classes=[str(name) for name in digits.target_names],
        split=None,
    )
