"""What was filled in, into the table of labels of its data set: nothing is overwritten, nothing is taken twice.

A row of to_label.csv (file,label) that is filled in goes to the table, such as data/raw/birds/labels.csv, or where the
table lists the image without a label, into that row; one that is empty stays.
"""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unicodedata import normalize

from pipeline import graph, params, paths
from pipeline.errors import Refusal
from pipeline.labeling import to_label
from pipeline.scratch import write_atomically
from pipeline.sentences import hinted
from pipeline.trail import removal

SEES_LABELS = ("labels.parquet", "pretrain/labels.parquet", "budgets")  # what of a data set a label changes


def label(file: Path, dataset: str | None, new_class: bool, root: Path) -> list[str]:
    """Merge the filled rows of a list into the labels of its data set; what to say of it, line by line.

    new_class: labels that no image has yet are taken, too. Refusal, with nothing changed: contradictions, strangers.
    """
    rows = to_label.read(file)
    filled = _agreeing(file, [(name, said) for name, said in rows if said])
    left = [name for name, said in rows if not said]
    if not filled:
        return [f"nothing to merge: none of the {len(rows)} rows of {file.name} has a label"]
    name, source, subset = _of(file, filled, dataset, root)
    table = root / source["path"] / source["labels"]
    if not table.is_file():
        raise Refusal(f"{table} is missing: make it with the first line file,label")
    known = _known(table)
    _require_agreement(table, known, filled, new_class)
    write_atomically(removal.place(table), (_parquet if _is_parquet(table) else _csv)(table, filled))
    to_label.write(file, [(image, "") for image in left])
    added = sum(_spelled(image) not in known for image in filled)
    rest = f", {len(left)} rows of {file.name} are still empty" if left else ""
    words = f"{added} labels are new in {table.relative_to(root)}{rest}"
    return [words, _stale(name, root, subset)]


def _agreeing(file: Path, rows: list[tuple[str, str]]) -> dict[str, str]:
    """Image → label of the filled rows; Refusal if one is said to be two things."""
    found: dict[str, str] = {}
    for image, said in rows:
        if found.setdefault(image, said) != said:
            raise Refusal(f"{file} says {found[image]!r} and {said!r} of {image}: leave one")
    return found


def _of(file: Path, filled: dict[str, str], dataset: str | None, root: Path) -> tuple[str, dict[str, Any], bool]:
    """The data set that has all of these images, its source, and whether it is a subset of that.

    Refusal if none has, or if its labels are no table.
    """
    datasets = params.read(root / "params.yaml")["datasets"]
    if dataset is not None and dataset not in datasets:
        raise Refusal(
            f"params.yaml has no data set {dataset!r}{hinted(dataset, datasets)} It has {', '.join(datasets)}"
        )
    missing = {name: _strangers(filled, root / paths.dataset(name)) for name in ([dataset] if dataset else datasets)}
    fitting = [name for name, strangers in missing.items() if not strangers]
    if not fitting:
        name, strangers = min(missing.items(), key=lambda pair: len(pair[1]))
        raise Refusal(f"{file}: {len(strangers)} images are not of the data set {name}, {strangers[0]} the first")
    if len(fitting) > 1:
        raise Refusal(f"the images of {file} are of the data sets {', '.join(fitting)}: say which by --dataset")
    source = datasets[fitting[0]]["source"]
    if "labels" not in source:
        raise Refusal(f"the labels of {fitting[0]} come with the source {source['name']}, which takes no others")
    if source["labels"] is None:
        raise Refusal(
            f"params.yaml: datasets.{fitting[0]}.source.labels is null, so an image has no label but its folder: write "
            f"the labels into a table {source['path']}/labels.csv (file,label), and set labels: labels.csv"
        )
    return fitting[0], source, datasets[fitting[0]].get("subset") is not None


def _strangers(images: Iterable[str], dataset: Path) -> list[str]:
    """Those that a prepared data set does not have."""
    import pyarrow.parquet as pq

    splits = dataset / "splits.parquet"
    if not splits.exists():
        return list(images)
    known = set(pq.read_table(splits, columns=["id"])["id"].to_pylist())
    return [image for image in images if image not in known]


def _spelled(image: str) -> str:
    """An é may be one character or two, and both look the same."""
    return normalize("NFC", image)


def _is_parquet(table: Path) -> bool:
    return table.suffix.lower() == ".parquet"


def _known(table: Path) -> dict[str, str]:
    """Image → label, of those that have one in the table."""
    import pyarrow.parquet as pq

    if _is_parquet(table):
        columns = pq.read_table(table, columns=["file", "label"])
        pairs = zip(columns["file"].to_pylist(), _texts(columns["label"]), strict=True)
    else:
        pairs = zip(*([row[name] for row in _rows(table)] for name in ("file", "label")), strict=True)
    return {_spelled(image): said for image, said in pairs if said}


def _texts(labels: Any) -> list[str]:
    """Labels as `prepare` reads them: 3 where a column of whole numbers holds 3.0, "" where there is none."""
    import pyarrow as pa

    return [said or "" for said in labels.cast(pa.string()).to_pylist()]


def _rows(table: Path) -> csv.DictReader:
    return csv.DictReader(io.StringIO(table.read_bytes().decode("utf-8-sig"), newline=""))


def _csv(table: Path, filled: dict[str, str]) -> bytes:
    """The content of a CSV file with these labels; what else it says of images stays."""
    out, rows = io.StringIO(), _rows(table)
    new = {_spelled(image): {"file": image, "label": said} for image, said in filled.items()}
    writer = csv.DictWriter(
        out, list(rows.fieldnames or []), lineterminator="\r\n" if b"\r\n" in table.read_bytes() else "\n"
    )
    writer.writeheader()
    writer.writerows(row | new.pop(_spelled(row["file"]), {}) | {"file": row["file"]} for row in rows)
    writer.writerows(new.values())
    return out.getvalue().encode()


def _parquet(table: Path, filled: dict[str, str]) -> bytes:
    """As `_csv`, of a parquet file; the type of its labels stays, and so does every label that is there."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    rows, new = pq.read_table(table), {_spelled(image): (image, said) for image, said in filled.items()}
    kind, at = rows.schema.field("label").type, rows.schema.get_field_index("label")
    said = [new.pop(_spelled(image), ("", None))[1] for image in rows["file"].to_pylist()]
    files, labels = (list(column) for column in zip(*new.values(), strict=True)) if new else ([], [])
    try:
        told, more = (pa.array(each, pa.string()).cast(kind) for each in (said, labels))
    except pa.ArrowInvalid as error:
        raise Refusal(f"{table} has labels of the type {kind}: {error}") from error
    before = rows["label"].combine_chunks()
    empty = pa.array([not label for label in _texts(before)])
    column = pc.if_else(empty, told, before)
    whole = rows.set_column(at, rows.schema.field("label"), column)
    out = io.BytesIO()
    added = pa.table({"file": pa.array(files, rows.schema.field("file").type), "label": more})
    pq.write_table(pa.concat_tables([whole, added], promote_options="default"), out)
    return out.getvalue()


def _require_agreement(table: Path, known: dict[str, str], filled: dict[str, str], new_class: bool) -> None:
    """Refusal where the table says another thing of an image, or has no image of a class."""
    for image, said in filled.items():
        if (before := known.get(_spelled(image), said)) != said:
            raise Refusal(f"{table} has the label {before!r} of {image}, not {said!r}: correct one of them")
    classes = set(known.values())
    strange = sorted(set(filled.values()) - classes)
    if strange and not new_class:
        has = f"the classes are {', '.join(sorted(classes))}" if classes else "there is none yet"
        raise Refusal(
            f"no image has the label {strange[0]!r} yet{hinted(strange[0], classes)} {has}; --new-class takes new ones"
        )


def _stale(dataset: str, root: Path, subset: bool) -> str:
    """What the new labels make stale, in words."""
    if subset:
        return f"stale now: prepare@{dataset}, whose `subset` chooses images by their labels, and so what depends on it"
    nodes = graph.read(root)
    changed = {(paths.dataset(dataset) / name).as_posix() for name in SEES_LABELS}
    stale = [node.name for node in nodes if changed & set(node.deps)]
    encoders = [name.partition("@")[2] for name in stale if name.startswith("pretrain@")]
    others = [name for name in stale if not name.startswith("pretrain@")]
    who = f"the encoders that see labels ({', '.join(encoders)})" if encoders else "no encoder"
    return f"stale now: prepare@{dataset}, then {', '.join(others) or 'nothing'}; and {who}"
