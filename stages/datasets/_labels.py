"""What is known of images besides their pixels: label, group and split, each a column of text, null where unknown.

They come from the folders that an image lies in, from a table (CSV or parquet) that lists images, or from a shard.
"""

from typing import Annotated, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from stages.datasets._images import DataError

Level = Annotated[int, Field(ge=1)]  # of a folder below the source: 1 is the first
Group = str | Level | None  # a column, or the level of the folder whose name is the group
Own = Literal["folders", "column"] | None  # where a split of the source's own stands
PARTS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
}


class Known(NamedTuple):
    """As `Images` has them."""

    labels: np.ndarray  # int64 (n,)
    classes: list[str]
    split: np.ndarray | None  # str (n,)
    groups: np.ndarray | None  # str (n,)


def columns(group: Group, split: Own) -> list[str]:
    """What a table has to have besides `label`."""
    return [*([group] if isinstance(group, str) else []), *(["split"] if split == "column" else [])]


def known(ids: list[str], labels: pa.Array, others: dict[str, pa.Array], group: Group, split: Own, place: str) -> Known:
    """What stands in the columns `labels` and `others`, and in the folders of `ids`.

    place: where the columns stand, for the sentence of a DataError: an image without group or split, where they are
        asked for.
    """
    classes = sorted(labels.unique().drop_null().to_pylist())
    numbers = pc.fill_null(pc.index_in(labels, value_set=pa.array(classes, pa.string())), -1)
    return Known(
        numbers.to_numpy(zero_copy_only=False).astype(np.int64),
        classes,
        _split(ids, others, split, place),
        _groups(ids, others, group, split, place),
    )


def folder_names(ids: list[str], level: int) -> pa.Array:
    """The folder of each image at a level, 1 being the first; null where there is none."""
    names: dict[str, str] = {}  # one string a folder, not one an image
    parts = (file.split("/", level) for file in ids)
    return pa.array(
        (names.setdefault(p[level - 1], p[level - 1]) if len(p) > level else None for p in parts), pa.string()
    )


def _groups(ids: list[str], others: dict[str, pa.Array], group: Group, split: Own, place: str) -> np.ndarray | None:
    if group is None:
        return None
    if isinstance(group, str):
        names, each = _whole(ids, others[group], f"a group in the column {group!r} of {place}")
    else:
        names, each = _whole(ids, folder_names(ids, group + (split == "folders")), f"folders down to level {group}")
    return np.array(names)[each]


def _split(ids: list[str], others: dict[str, pa.Array], split: Own, place: str) -> np.ndarray | None:
    if split is None:
        return None
    if split == "folders":
        what, column, lacking = "the folder", folder_names(ids, 1), "a folder such as train, val or test around it"
    else:
        what, column, lacking = f"{place}: the split", others["split"], f"a value in the column split of {place}"
    names, each = _whole(ids, column, lacking)
    for number, name in enumerate(names):
        if name not in PARTS:
            first = ids[int(np.argmax(each == number))]
            raise DataError(f"{what} {name!r} ({first}) is none of {', '.join(PARTS)}: rename it")
    return np.array([PARTS[name] for name in names])[each]


def _whole(ids: list[str], column: pa.Array, what: str) -> tuple[list[str], np.ndarray]:
    """The values of a column that every file has to have, and which of them each has, (n,)."""
    if column.null_count:
        first = ids[pc.index(column.is_null(), True).as_py()]
        lacking = f"{column.null_count} of {len(ids)} images lack {what}, {first} the first"
        raise DataError(f"{lacking}: add it, or take away what is no image")
    values = column.dictionary_encode()
    return values.dictionary.to_pylist(), values.indices.to_numpy()
