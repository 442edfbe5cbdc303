"""What `contrail forget` would remove: every file, every object of cache and remotes that holds the images.

Or that was made from them image by image: pixels, lists, features, predictions, reports, and what was made from these.
Weights and scores stay: what they learned from an image only another training takes out, so they are noted instead.
"""

from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from unicodedata import normalize

from pipeline import paths
from pipeline.errors import Refusal
from pipeline.store import Store
from pipeline.trail import history, marks, removal
from pipeline.trail.history import Made
from pipeline.trail.seen import Held, Trail, Wanted
from pipeline.trail.sources import Source

KEPT = tuple(paths.DATA / name for name in ("classifiers", "encoders", "exports", "finetunes", "receipts", "scores"))


class ForgetError(Refusal):
    """An image cannot be forgotten as asked."""


@dataclass
class Plan:
    """What is to be removed and noted; lists of text, so that it can be written down."""

    images: list[str] = field(default_factory=list)  # sha256 of each, or where that is not known, its id
    names: list[str] = field(default_factory=list)  # ids that they go by, or once did
    files: dict[str, list[str]] = field(default_factory=dict)  # data set → ids of its source's files
    objects: list[str] = field(default_factory=list)  # md5
    outs: list[str] = field(default_factory=list)  # paths in data/
    versions: dict[str, str] = field(default_factory=dict)  # "digits-encoder 1" → the note on it
    runs: dict[str, str] = field(default_factory=dict)  # id of a run → the note on it
    shown: list[str] = field(default_factory=list)  # versions that hold an image themselves

    def merged(self, other: "Plan") -> "Plan":
        """Both plans in one."""
        mine, theirs = asdict(self), asdict(other)
        both: dict[str, Any] = {}
        for name, value in mine.items():
            if isinstance(value, list):
                both[name] = sorted({*value, *theirs[name]})
            elif name == "files":
                both[name] = {d: sorted({*value.get(d, []), *theirs[name].get(d, [])}) for d in value | theirs[name]}
            else:
                both[name] = theirs[name] | value
        return Plan(**both)


class Forgetting:
    """A look at all that this repository reaches."""

    def __init__(self, store: Store, sources: list[Source], wanted: Wanted) -> None:
        self.store = store
        self.sources = {source.dataset: source for source in sources}
        self.trail = Trail(store, wanted)
        store.require(*store.failed)
        self._parts: list[bytes] = []  # what an object that nothing records would hold of the images
        self._readable: list[Source] = []
        for content in wanted.contents:
            self._look_for(content, sources)

    def plan(self, client: Any, again: bool) -> Plan:
        """What there is to remove. client: of the tracking store, None to leave it out.

        again: an interrupted call left its plan, so a source may be in a state that it cannot be read in.
        """
        self._require_one_meaning()
        plan = Plan(images=sorted(self.trail.hashes))
        with suppress(Refusal) if again else nullcontext():
            plan.files = self._files()
        if not plan.images and not any(plan.files.values()):
            return plan
        names = {name for ids in plan.files.values() for name in ids} | self.trail.wanted.ids
        held = {id(held.made): held for held in self.trail.held}
        plan.names = sorted({*names, *(name for one in held.values() for name in one.images["id"].to_pylist())})
        rest = [made for made in self.trail.datasets if id(made) not in held]
        affected = [*(one.made for one in held.values()), *(made for made in rest if self._names(made, names))]
        touched = list(self._touched(affected))
        plan.objects = sorted({oid for made in touched for oid in self._objects(made, held.get(id(made)))})
        plan.objects = sorted({*plan.objects, *self._strays(plan)})
        now = (out for made in touched if made.where == history.NOW for out in self._outs(made))
        plan.outs = sorted({str(out) for out in now})
        if client is not None:
            self._note(client, plan)
        return plan

    def _require_one_meaning(self) -> None:
        """ForgetError if an id is that of several images of today."""
        meant: dict[str, dict[str, str]] = {}
        for held in self.trail.held:
            for image in held.images.to_pylist() if held.made.where == history.NOW else ():
                if image["id"] in self.trail.wanted.ids:
                    meant.setdefault(image["id"], {})[image["sha256"]] = held.made.item
        for name, images in meant.items():
            if len(images) > 1:
                raise ForgetError(f"{name} is another image in {' and in '.join(images.values())}: add --dataset")

    def _names(self, made: Made, names: set[str]) -> bool:
        """Whether a version of a data set names an image that it does not hold, or may hold it: its index is gone."""
        folder = paths.dataset(made.item)
        lists = (self.store.read(oid) for out, oid in made.outs.items() if Path(out).parent == folder)
        return made in self.trail.lost or any(removal.holds(content or b"", [], names) for content in lists)

    def _files(self) -> dict[str, list[str]]:
        """Data set → ids in its source; ForgetError where the source is not one to take images out of."""
        found: dict[str, list[str]] = {}
        for name, source in self.sources.items():
            now = (held for held in self.trail.held if held.made.where == history.NOW and held.made.item == name)
            rows = source.rows(self.trail.wanted, (one for held in now for one in held.images["id"].to_pylist()))
            self._readable.append(source)
            if not rows:
                continue
            source.require_removable()
            for row in rows:
                self._look_for(source.content(row), [source])
            found[name] = [source.images.ids[row] for row in rows]
        return found

    def _look_for(self, content: bytes, sources: list[Source]) -> None:
        """Search objects for the content of a file, and for what sources keep of it."""
        self._parts += [content, *(part for source in sources for part in source.kept(content))]

    def _touched(self, affected: list[Made]) -> Iterator[Made]:
        """The executions whose outputs were made from the affected ones, these first."""
        tainted = {oid for made in affected for oid in made.outs.values()}
        folders = [paths.dataset(made.item) for made in affected]
        waiting = [made for made in self.trail.made if made not in affected]
        yield from affected
        grown = True
        while grown:
            grown = False
            for made in list(waiting):
                above = any(Path(dep) in folder.parents for dep in made.deps for folder in folders)
                if above or not tainted.isdisjoint(made.deps.values()):
                    waiting.remove(made)
                    grown = True
                    tainted |= {oid for out, oid in made.outs.items() if not _kept(Path(out))}
                    yield made

    def _objects(self, made: Made, held: Held | None) -> Iterator[str]:
        """Every object that an execution's outputs hold of the images."""
        for out, oid in made.outs.items():
            files = self.store.files(oid) or {}
            if Path(out).is_relative_to(paths.DATA / "exports"):
                if self.trail.golden(made):
                    yield from (oid, files.get("golden.safetensors", oid))
            elif Path(out).name == "images" and made not in self.trail.lost:
                yield from (oid, *(files[name] for name in self.trail.holding(held, files))) if held else ()
            elif not _kept(Path(out)):
                yield from (oid, *files.values())

    def _outs(self, made: Made) -> Iterator[Path]:
        """Its outputs in data/ that hold something of the images."""
        for out in map(Path, made.outs):
            if not _kept(out) or (out.is_relative_to(paths.DATA / "exports") and self.trail.golden(made)):
                yield out

    def _strays(self, plan: Plan) -> Iterator[str]:
        """Objects that no execution made: the files themselves, as `dvc add` keeps them, and the like."""
        yield from (oid for held in self.trail.held for oid in self._added(held))
        recorded = {oid for made in self.trail.made for out in made.outs.values() for oid in self._all(out)}
        images = [image for held in self.trail.held for image in held.images.to_pylist()]
        files = {name for ids in plan.files.values() for name in ids}
        names = {*plan.images, *files, *self.trail.wanted.ids, *(image["id"] for image in images)}
        gone = {image["sha256"] for image in images if image["id"] not in files}  # no source has their bytes
        for oid in self.store.stored():
            content = None if oid in recorded else self.store.read(oid)
            if content is not None and (removal.holds(content, self._parts, names) or self._shows(content, gone)):
                yield oid

    def _added(self, held: Held) -> Iterator[str]:
        """What `dvc add` keeps of the images in the folder that a version was made from: its list, and the files."""
        ids = {normalize("NFC", name) for name in held.images["id"].to_pylist()}
        for oid in held.made.deps.values():
            files = self.store.files(oid) or {}
            named = [md5 for name, md5 in files.items() if normalize("NFC", name) in ids]
            yield from (oid, *named) if named else ()

    def _shows(self, content: bytes, hashes: set[str]) -> bool:
        """Whether a file is one of these images to a data set."""
        return bool(hashes) and any(not hashes.isdisjoint(source.hashes(content)) for source in self._readable)

    def _all(self, oid: str) -> Iterator[str]:
        yield oid
        yield from (self.store.files(oid) or {}).values()

    def _note(self, client: Any, plan: Plan) -> None:
        today = f"{date.today():%Y-%m-%d}"
        for version, _ in marks.versions(client):
            answer = self.trail.version(version.tags)
            name = f"{version.name} {version.version}"
            if answer.count is None and version.tags.get("dataset") not in self._datasets:
                continue  # of another project, as a rule
            if words := _words(answer.count, today):
                plan.versions[name] = words
            if (answer.count or version.tags.get("dataset") in self._datasets) and self.trail.shown(version.tags):
                plan.shown.append(name)
        notes = {made.key: self._run_words(made, today) for made in self.trail.made}
        for key, found in marks.runs(client, [key for key, words in notes.items() if words]).items():
            plan.runs |= dict.fromkeys(found, notes[key])

    @property
    def _datasets(self) -> set[str]:
        """The data sets, by name, that hold some of the images or held them once."""
        return {held.made.item for held in self.trail.held}

    def _run_words(self, made: Made, today: str) -> str:
        if made.command not in ("pretrain", "finetune") or made.block["dataset"] not in self._datasets:
            return ""
        if made.command == "pretrain":
            return _words(self.trail.saw(made).count, today)
        used, unlabeled = self.trail.used(made), self.trail.unlabeled(made).count
        if used:
            return f"used labels of images forgotten on {today}"
        return _words(None if used is None else unlabeled, today)


def _words(count: int | None, today: str) -> str:
    """The note on what saw images; none on what saw none."""
    if count is None:
        return f"may have seen images that were forgotten on {today}"
    return f"saw {count} image{'s' if count > 1 else ''} forgotten on {today}" if count else ""


def _kept(out: Path) -> bool:
    return any(out.is_relative_to(folder) for folder in KEPT)
