"""A few images of another source, so few and such ones that every stage can be tried on them.

`contrail run --quick` puts this file among the sources of its copy, as stages/datasets/sliver.py.
"""

import random
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

from pipeline.params import Count
from pipeline.plugins import plugin

CLASSES = 10  # at most: hashes draw the splits, so that of each class several images are needed
UNLABELED = 4  # one in so many is without a label, where there are any


def load(
    *,
    path: str,  # what `of` has, for DVC to watch
    of: plugin("datasets"),  # type: ignore[valid-type]  # the annotation is made for pydantic
    images: Count,
) -> Any:
    """At most so many images of the source `of`, most of them from its largest classes."""
    whole = of.make()
    return whole.take(rows(whole, images))


def rows(whole: Any, images: int) -> list[int]:
    """Rows of at most `images` images, sorted: classes, own splits and, inside these, groups in turn."""
    labels = whole.labels.tolist()
    splits = whole.split if whole.split is not None else ["train"] * len(labels)
    groups = whole.groups if whole.groups is not None else range(len(labels))
    largest = {label for label, _ in Counter(label for label in labels if label >= 0).most_common(CLASSES)}
    keys = (lambda row: (labels[row], splits[row], groups[row])), (lambda row: (labels[row], splits[row]))
    labeled = _in_turn([row for row, label in enumerate(labels) if label in largest], *keys)
    others = _in_turn([row for row, label in enumerate(labels) if label < 0], *keys)
    some = labeled[: images - min(len(others), images // UNLABELED)]
    return sorted([*some, *others[: images - len(some)]])


def _in_turn(among: list[int], *keys: Callable[[int], Hashable]) -> list[int]:
    """The rows shuffled, then, for one key after the other, the first row of each value before the second of any."""
    order = random.Random(0).sample(among, len(among))
    for key in keys:
        seen, turns = Counter[Hashable](), dict[int, int]()
        for row in order:
            turns[row] = seen[key(row)]
            seen[key(row)] += 1
        order.sort(key=turns.__getitem__)
    return order
