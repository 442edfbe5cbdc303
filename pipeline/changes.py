"""What changed in the images of a data set since it was prepared, in words, and which stages that makes stale.

    data/datasets/<name>/{manifest,labels,splits}.parquet   ◀── compared with ──▶   the source as it is now

The source is only listed: the md5 of a file that looks unchanged is the one that DVC remembers.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import graph, params, paths, plugins
from pipeline.errors import Refusal
from pipeline.graph import Node

NAMED = 3  # of each kind of change
FILES = ("added", "removed", "changed", "moved")
OTHERS = {  # what a change of labels or groups alone may change of what prepare writes
    "relabeled": ("labels.parquet", "pretrain/labels.parquet", "budgets", "summary.json"),
    "regrouped": ("splits.parquet", "pretrain", "budgets", "summary.json"),
}


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Ids of images, or an id with what it was and what it is now (None: no label, no group)."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)  # the same bytes: where they were, where they are
    relabeled: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    regrouped: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    refusal: str | None = None  # why the source cannot be read as it is now
    stages: list[str] = field(default_factory=list)  # that run again, at most

    @property
    def kinds(self) -> list[str]:
        """What there is of changes."""
        return [kind for kind in (*FILES, *OTHERS) if getattr(self, kind)]


def changes(stale: dict[str, list[str]], root: Path) -> dict[str, Changes]:
    """Data set → what changed in its source, for those whose source DVC finds changed and that have been prepared."""
    found: dict[str, Changes] = {}
    for name, block in params.read(root / "params.yaml")["datasets"].items():
        manifest = root / paths.dataset(name) / "manifest.parquet"
        if not manifest.exists():
            continue
        path = block["source"]["path"]
        if any(reason.startswith(f"{path} ") for reason in stale.get(f"prepare@{name}", [])):
            found[name] = _compared(name, block, root)
    return found


def words(name: str, changes: Changes) -> list[str]:
    """What changed in a data set, and the stages that it makes stale, for people."""
    if changes.refusal:
        return [f"{name}: the images cannot be read as they are now: {changes.refusal}"]
    parts = [f"{len(items):,} {kind} ({_first(items)})" for kind in changes.kinds for items in [getattr(changes, kind)]]
    what = "; ".join(parts) or "the source changed, but no file, label or group that prepare would see"
    return [f"{name}: {what}", f"  at most these run again: {', '.join(changes.stages)}"]


def _first(items: list[Any]) -> str:
    shown = [item if isinstance(item, str) else _arrow(*item) for item in items[:NAMED]]
    return ", ".join([*shown, "…"] if len(items) > NAMED else shown)


def _arrow(identity: str, *places: str | None) -> str:
    if len(places) == 1:
        return f"{identity} → {places[0]}"
    return f"{identity}: {' → '.join(place or 'none' for place in places)}"


def _compared(name: str, block: dict[str, Any], root: Path) -> Changes:
    import pyarrow.parquet as pq

    folder = root / paths.dataset(name)
    before = dict(
        zip(*(pq.read_table(folder / "manifest.parquet")[key].to_pylist() for key in ("id", "md5")), strict=True)
    )
    known = {key: _column(folder, file, column) for key, (file, column) in KNOWN.items()}
    try:
        images = plugins.specify("datasets", block["source"], f"datasets.{name}.source").make()
    except Refusal as refusal:
        return Changes(refusal=str(refusal))
    now = graph.files(f"prepare@{name}", block["source"]["path"], root)
    files = _files(before, images.ids, now, whole=block["subset"] is None)
    found: dict[str, Any] = files | _known(images, known)
    stages = _stale(graph.read(root), f"prepare@{name}", _touched(name, found, block["subset"] is not None))
    return Changes(**found, stages=stages)


KNOWN = {"label": ("labels.parquet", "name"), "group": ("splits.parquet", "group")}


def _column(folder: Path, file: str, column: str) -> dict[str, str]:
    """Id → what a table says of it."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder / file, columns=["id", column])
    return dict(zip(table["id"].to_pylist(), table[column].to_pylist(), strict=True))


def _files(
    before: dict[str, str | None], ids: Iterable[str], now: dict[str, str], *, whole: bool
) -> dict[str, list[Any]]:
    """Which files came, went, changed and moved.

    before: id → md5; now: path → md5 of what lies there (ids inside of tar files are not among them); whole: not a
    subset, of which nobody can say which files are new.
    """
    present = set(ids)
    added = sorted(present - before.keys()) if whole else []
    removed = sorted(before.keys() - present)
    gone = {md5: name for name in reversed(removed) if (md5 := before[name]) is not None}
    moved = [(gone[now[name]], name) for name in added if now.get(name) in gone]
    places = {place for pair in moved for place in pair}
    return {
        "added": [name for name in added if name not in places],
        "removed": [name for name in removed if name not in places],
        "changed": sorted(name for name in present & before.keys() & now.keys() if now[name] != before[name]),
        "moved": moved,
    }


def _known(images: Any, known: dict[str, dict[str, str]]) -> dict[str, list[Any]]:
    """Whose label or group is another one, among the images that were prepared and are still there."""
    prepared = known["group"].keys()
    relabeled, regrouped = [], []
    for row, name in enumerate(images.ids):
        if name not in prepared:
            continue
        label = images.classes[images.labels[row]] if images.labels[row] >= 0 else None
        if label != known["label"].get(name):
            relabeled.append((name, known["label"].get(name), label))
        group = str(images.groups[row]) if images.groups is not None else ""
        if group and group != known["group"][name]:
            regrouped.append((name, known["group"][name], group))
    return {"relabeled": sorted(relabeled), "regrouped": sorted(regrouped)}


def _touched(name: str, found: dict[str, list[Any]], subset: bool) -> list[str]:
    """What prepare may write anew: all of it, or what labels and groups decide. A subset goes by classes."""
    folder = paths.dataset(name)
    receipt = paths.receipt(f"prepare@{name}").as_posix()
    if any(found[kind] for kind in FILES) or (subset and found["relabeled"]):
        return [folder.as_posix(), receipt]
    return [receipt, *(str(folder / file) for kind, files in OTHERS.items() if found[kind] for file in files)]


def _stale(nodes: list[Node], first: str, touched: list[str]) -> list[str]:
    """The stages that run again if `first` writes `touched` anew: what depends on that, and so on."""
    stale = [first]
    for node in nodes:
        if node.name != first and any(_meets(dep, out) for dep in node.deps for out in touched):
            stale.append(node.name)
            touched = [*touched, *node.outs]
    return stale


def _meets(path: str, other: str) -> bool:
    """Whether one is the other, or lies in it."""
    return f"{path}/".startswith(f"{other}/") or f"{other}/".startswith(f"{path}/")
