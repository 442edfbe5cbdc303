"""A published list of images, such as the 1 % and 10 % of ImageNet: one name a line, the same for every seed.

A line is the id of an image, train/n01440764/n01440764_10026.JPEG, or the last part of it, n01440764_10026.JPEG, where
one image alone is called that.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from pipeline.errors import Refusal
from pipeline.params import Probability
from stages.budgets._permutation import Candidates, Selection


def select(candidates: Candidates, seed: int, *, file: str, missing: Probability) -> Selection:
    """The candidates that `file` names; it lies inside the source's path, as that is what DVC watches.

    missing: the share of the names that may be those of no labeled train image, for where a share of the train images
    is the validation split. Refusal if they are more, or if a name is that of several images.
    """
    names = _lines(file)
    short = [name.rpartition("/")[2] for name in candidates.ids]
    times = Counter(short)
    place = {name: at for at, name in enumerate(short) if times[name] == 1} | {
        name: at for at, name in enumerate(candidates.ids)
    }
    unknown = [name for name in names if name not in place]
    if len(unknown) > missing * len(names):
        many = " (the name of several)" if times[unknown[0]] > 1 else ""
        raise Refusal(
            f"{file}: {len(unknown)} of its {len(names)} names are those of no labeled train image, the first is "
            f"{unknown[0]!r}{many}: a list must name train images (`split` says which those are), but for the share "
            f"`missing`, which is {missing:g}"
        )
    return Selection(np.unique(np.array([place[name] for name in names if name in place], dtype=np.int64)), {})


def _lines(file: str) -> list[str]:
    if not Path(file).is_file():
        raise Refusal(f"{file} is missing: a list of images, one name a line, inside the source's `path`")
    names = [line.strip() for line in Path(file).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not names:
        raise Refusal(f"{file} names no image: a list has one name a line")
    return names
