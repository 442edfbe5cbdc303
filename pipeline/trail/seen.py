"""The trail of an image: which data sets hold it, which runs and fine-tunings learned from it, which versions did.

    the image ── sha256 of its pixels, or its id ──▶ images/index.parquet of every version of every data set
    its ids   ── data/datasets/<x>/pretrain/<sees>.parquet ──▶ pretrain@<run> saw it, and what starts from its weights
              ── budgets/<budget>-<seed>.parquet ──▶ finetune@<x> used its label
    a version of the registry ── its tag `trained`, or dvc.key ──▶ the lists above

Everything is looked up by md5 in the cache and the remotes, for what dvc.lock says now and what it said in any commit;
what is no longer there makes an answer unknown, never "no".
"""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.store import Store
from pipeline.trail import history
from pipeline.trail.history import Made

if TYPE_CHECKING:
    import pyarrow as pa

GOLDEN = 8  # images of a data set, its first, that an export shows itself: as in stages/embed.py
UNRECORDED = "no dvc.lock in reach records how it was made"


@dataclass(frozen=True)
class Wanted:
    """The images that are asked about: by id, by sha256 of their pixels, by group; in one data set or in all."""

    ids: frozenset[str] = frozenset()
    hashes: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    dataset: str | None = None
    contents: tuple[bytes, ...] = field(default=(), compare=False, repr=False)  # of the files that were given


@dataclass(frozen=True)
class Held:
    """What one version of a data set holds of them."""

    made: Made  # the execution of prepare
    images: "pa.Table"  # row, id, sha256, split, group


@dataclass(frozen=True)
class Answer:
    """How many of the images something saw; None: it cannot be known, and why."""

    count: int | None
    why: str = ""


class Trail:
    """The trail of the wanted images through all that the repository remembers."""

    def __init__(self, store: Store, wanted: Wanted) -> None:
        self.store = store
        self.made = history.executions(store)
        self._held: dict[tuple[str | None, ...], pa.Table | None] = {}
        self._columns: dict[str, set[str] | None] = {}
        self.wanted = self._with_hashes(wanted)
        self._held.clear()

    @cached_property
    def datasets(self) -> list[Made]:
        """The versions of all data sets: executions of prepare."""
        return list(self._of("prepare"))

    @cached_property
    def held(self) -> list[Held]:
        """The versions of data sets that hold some of the images."""
        found = [(made, self._images(made)) for made in self.datasets]
        return [Held(made, images) for made, images in found if images is not None and len(images)]

    @cached_property
    def lost(self) -> list[Made]:
        """The versions of data sets whose list of images is nowhere any more."""
        return [made for made in self.datasets if self._images(made) is None]

    @cached_property
    def quarantined(self) -> list[tuple[Made, dict[str, str]]]:
        """The files of these ids that a version of a data set left out: file, kind, reason."""
        found = []
        for made in self.datasets:
            oid = made.outs.get(str(paths.dataset(made.item) / "quarantine.csv"))
            content = self.store.read(oid) if oid and self.wanted.dataset in (None, made.item) else None
            rows = csv.DictReader(StringIO((content or b"").decode(), newline=""))
            found += [(made, row) for row in rows if row["file"] in self.wanted.ids]
        return found

    @property
    def hashes(self) -> set[str]:
        """sha256 of every image that was found."""
        return {name for held in self.held for name in held.images["sha256"].to_pylist()}

    def labels(self, held: Held) -> dict[str, str]:
        """Id → label of the images that have one."""
        table = self._table(held.made.outs.get(str(paths.dataset(held.made.item) / "labels.parquet")))
        return {} if table is None else dict(self._among(table, held.images["id"], "name"))

    def budgets(self, folder: str | None, ids: Iterable[str]) -> dict[str, list[int]] | None:
        """Budget → the seeds with which it grants the label of one of `ids`; None if the folder's list is nowhere."""
        files = self.store.files(folder) if folder else None
        if files is None:
            return None
        found: dict[str, list[int]] = {}
        for name in sorted(name for name in files if name.endswith(".parquet")):
            known = self._ids(files[name])
            if known is None:
                return None
            budget, _, seed = Path(name).stem.rpartition("-")
            if not known.isdisjoint(ids):
                found.setdefault(budget, []).append(int(seed))
        return {budget: sorted(seeds) for budget, seeds in found.items()}

    def saw(self, made: Made) -> Answer:
        """How many of the images an execution of pretrain learned from, by itself or through its first weights."""
        block, folder = made.block, paths.dataset(made.block["dataset"])
        own = Answer(0)
        if block["training"]["epochs"]:
            seen = made.deps.get(str(folder / "pretrain" / f"{block['sees']}.parquet"))
            own = self.listed(made.deps.get(str(folder / "images")), seen)
        init = block.get("init", "")
        before = Answer(0) if not init or init.endswith(".py") else self._weights(made.deps.get(init))
        return _together([own, before])

    def listed(self, images: str | None, seen: str | None) -> Answer:
        """How many of the images stand in a list of what pretraining saw, given the md5 of list and folder `images`."""
        ids = self._ids(seen)
        if ids is None:
            return Answer(None, f"the list of what it saw ({seen}) is neither in the cache nor in a remote")
        table = self._in_folder(images, None)
        if table is None:  # its own index is gone: ids that any version of a data set gave to the images
            named = {name for held in self.held for name in held.images["id"].to_pylist()} | self.wanted.ids
            count = len(named & ids)
            return Answer(count) if count else Answer(None, f"the index of its images ({images}) is nowhere any more")
        return Answer(len(set(table["id"].to_pylist()) & ids))

    def used(self, made: Made) -> dict[str, list[int]] | None:
        """Budget → seeds by which a finetune, or its teacher, used the label of one of them; None if it is unknown."""
        folder, teachers = paths.dataset(made.block["dataset"]), self._teachers(made)
        images = self._in_folder(made.deps.get(str(folder / "images")), None)
        if images is None or teachers is None:
            return None
        found = [self.used(teacher) for teacher in teachers]
        found.append(self.budgets(made.deps.get(str(folder / "budgets")), images["id"].to_pylist()))
        if None in found:
            return None
        granted = {name: seeds for budgets in found for name, seeds in (budgets or {}).items()}
        return {name: seeds for name, seeds in granted.items() if name in made.block["budgets"]}

    def unlabeled(self, made: Made) -> Answer:
        """How many of the images a finetune, or its teacher, learned from without their labels."""
        teachers = self._teachers(made)
        if teachers is None:
            return Answer(None, f"nothing here records what its teacher ({made.block['teacher']}) saw")
        found = [self.unlabeled(teacher) for teacher in teachers]
        objective = made.block["objective"]
        if objective.get("unlabeled") or objective.get("unlabelled"):  # as it was once spelled
            folder = paths.dataset(made.block["dataset"])
            seen = made.deps.get(str(folder / "pretrain" / "images.parquet"))
            found.append(self.listed(made.deps.get(str(folder / "images")), seen))
        return _together(found)

    def _teachers(self, made: Made) -> list[Made] | None:
        """The finetune whose classifiers it learned from, [] if it had none; None if that is not recorded."""
        path = made.block.get("teacher", ".py")
        if path.endswith(".py"):
            return []
        found = [other for other in self._of("finetune") if other.outs.get(path) == made.deps.get(path, "")]
        return found[:1] or None

    def version(self, tags: dict[str, str]) -> Answer:
        """How many of the images a version of the registry learned from, by its tags."""
        if "trained" in tags:
            return _together([self._trained(step) for step in json.loads(tags["trained"])])
        if embedded := self.by_key(tags.get("dvc.key")):
            encoder = embedded.deps.get(str(paths.encoder(tags["run"])))
            for made in self._of("pretrain"):
                if made.outs.get(str(paths.encoder(made.item))) == encoder:
                    return self.saw(made)
        return Answer(None, UNRECORDED)

    def shown(self, tags: dict[str, str]) -> bool:
        """Whether a version may hold one of the images itself, in golden.safetensors."""
        made = self.by_key(tags.get("dvc.key"))
        return self.golden(made) if made else True

    def golden(self, made: Made) -> bool:
        """The same of an execution of embed."""
        if made.entry["params"]["params.yaml"].get("private"):
            return False
        images = self._in_folder(made.deps.get(str(paths.dataset(made.block["dataset"]) / "images")), None)
        return images is None or any(row < GOLDEN for row in images["row"].to_pylist())

    def holding(self, held: Held, files: Iterable[str]) -> list[str]:
        """Which of the files of a folder `images` hold some of the images."""
        index = self._table((self.store.files(held.made.outs[_images_of(held.made)]) or {}).get("index.parquet"))
        if index is None or "shard" not in index.column_names:
            return list(files)
        shards = set(index["shard"].take(held.images["row"].combine_chunks()).to_pylist())
        return [name for name in files if name == "index.parquet" or int(Path(name).stem.rpartition("-")[2]) in shards]

    def by_key(self, key: str | None) -> Made | None:
        return next((made for made in self.made if made.key == key), None)

    def _trained(self, step: dict[str, str]) -> Answer:
        if "weights" in step:
            return self._weights(step["weights"])
        return self.listed(step["images"], step["list"])

    def _weights(self, md5: str | None) -> Answer:
        """What the run saw whose weights these are: found by the md5 of the file, in whatever execution made it."""
        for made in self._of("pretrain"):
            files = self.store.files(made.outs[str(paths.encoder(made.item))])
            if files and md5 in files.values():
                return self.saw(made)
        for made in self._of("embed"):
            files = self.store.files(made.outs[str(paths.export(made.item))])
            if files and md5 in files.values():
                return self.version({"dvc.key": made.key, "run": made.block["run"]})
        return Answer(None, f"it starts from other weights ({md5}), and nothing here records what these saw")

    def _of(self, command: str) -> Iterator[Made]:
        return (made for made in self.made if made.command == command)

    def _with_hashes(self, wanted: Wanted) -> Wanted:
        """The images of these names, with their hashes: the same images elsewhere go by other names.

        A name means what it does today; what it once meant, where no data set of today has it.
        """
        hashes, sought = set(wanted.hashes), replace(wanted, hashes=frozenset())
        for now in (True, False):
            versions = [made for made in self.datasets if (made.where == history.NOW) == now]
            found = [images for made in versions if (images := self._images(made, sought)) is not None]
            hashes |= {name for images in found for name in images["sha256"].to_pylist()}
            ids, groups = ({name for images in found for name in images[key].to_pylist()} for key in ("id", "group"))
            sought = replace(sought, ids=sought.ids - ids, groups=sought.groups - groups)
        return replace(wanted, hashes=frozenset(hashes))

    def _images(self, made: Made, wanted: Wanted | None = None) -> "pa.Table | None":
        folder = paths.dataset(made.item)
        outs = made.outs
        return self._in_folder(outs.get(str(folder / "images")), outs.get(str(folder / "splits.parquet")), made, wanted)

    def _in_folder(
        self, images: str | None, splits: str | None, made: Made | None = None, wanted: Wanted | None = None
    ) -> "pa.Table | None":
        """The wanted ones of a folder `images`: row, id, sha256, split, group; None if its index is nowhere."""
        if made is None:  # by the md5 of the images alone: any version that has them knows their groups
            same = (m for m in self.datasets if m.outs.get(str(paths.dataset(m.item) / "images")) == images)
            if made := next(same, None):
                return self._images(made)
        dataset = made.item if made else None
        if (images, splits, dataset) not in self._held:
            table = self._table((self.store.files(images) or {}).get("index.parquet") if images else None)
            found = None if table is None else _matching(table, self._table(splits), wanted or self.wanted, dataset)
            self._held[images, splits, dataset] = found
        return self._held[images, splits, dataset]

    def _among(self, table: "pa.Table", ids: Any, column: str) -> Iterator[tuple[str, Any]]:
        import pyarrow.compute as pc

        few = table.filter(pc.is_in(table["id"], value_set=ids.combine_chunks()))
        return zip(few["id"].to_pylist(), few[column].to_pylist(), strict=True)

    def _ids(self, oid: str | None) -> set[str] | None:
        """The ids of a table."""
        if oid is None:
            return None
        if oid not in self._columns:
            table = self._table(oid)
            self._columns[oid] = None if table is None else set(table["id"].to_pylist())
        return self._columns[oid]

    def _table(self, oid: str | None) -> "pa.Table | None":
        import pyarrow.parquet as pq

        content = self.store.read(oid) if oid else None
        return None if content is None else pq.read_table(BytesIO(content))


def _together(answers: list[Answer]) -> Answer:
    """Of several ways to have seen images: the largest count; where none is above 0, what is unknown."""
    known = [answer for answer in answers if answer.count]
    unknown = [answer for answer in answers if answer.count is None]
    return max(known, key=lambda answer: answer.count or 0) if known else next(iter(unknown), Answer(0))


def _images_of(made: Made) -> str:
    """The path of the images that an execution of prepare made."""
    return str(paths.dataset(made.item) / "images")


def _matching(index: "pa.Table", splits: "pa.Table | None", wanted: Wanted, dataset: str | None) -> "pa.Table":
    """The rows of an index that are wanted, with their number, split and group ("" where nothing says)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def among(column: Any, values: frozenset[str]) -> Any:
        return pc.is_in(column, value_set=pa.array(sorted(values), pa.string()))

    table = index.select(["id", "sha256"]).append_column("row", pa.array(range(len(index)), pa.int64()))
    for name in ("split", "group"):
        empty = pa.array([""] * len(index), pa.string())
        found = splits is not None and name in splits.column_names and len(splits) == len(index)
        table = table.append_column(name, splits[name] if found and splits is not None else empty)
    mask = among(table["sha256"], wanted.hashes)
    if wanted.dataset in (None, dataset):
        mask = pc.or_(mask, pc.or_(among(table["id"], wanted.ids), among(table["group"], wanted.groups)))
    return table.filter(mask)
