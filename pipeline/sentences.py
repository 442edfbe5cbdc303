"""What a signature accepts, in words, and what is wrong with values that it does not.

A sentence has the place in params.yaml, what is accepted there (read from the types, never from pydantic's messages,
which speak of its own machinery) and what stands there instead.
"""

import difflib
from collections import defaultdict
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic.fields import FieldInfo

from pipeline.errors import ParamsError

Place = tuple[str | int, ...]
NAME = r"^[a-z0-9_-]+$"
LIMITS = (
    ("gt", "greater than"),
    ("ge", "greater than or equal to"),
    ("lt", "less than"),
    ("le", "less than or equal to"),
)
LONGEST = 60  # characters of a value that a sentence quotes


class Problem(NamedTuple):
    """One thing that is wrong: where inside the block, and the sentence."""

    place: Place
    sentence: str


class BlockError(ValueError):
    """A block of parameters that cannot be taken."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(sentence for _, sentence in problems))
        self.problems = problems

    def at(self, where: str) -> ParamsError:
        """The error for the person who wrote it; `where` is the place of the block in params.yaml, "" for all of it."""
        places = [
            where + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in p.place)
            for p in self.problems
        ]
        lines = [
            f"{place.lstrip('.')}: {p.sentence}".removeprefix(": ")
            for place, p in zip(places, self.problems, strict=True)
        ]
        return ParamsError("\n".join(f"params.yaml: {line}" for line in lines))


class _Hint(NamedTuple):
    """What is accepted at a place: a bare type, and what `Annotated` adds to it."""

    type: Any
    extras: list[Any]


def problems(model: type[BaseModel], values: Any, error: ValidationError) -> list[Problem]:
    """What `error` says of `values`, one problem a place."""
    top = _Hint(model, [])
    found: dict[Place, str] = {}
    unknown: dict[Place, list[str]] = defaultdict(list)
    missing: dict[Place, list[str]] = defaultdict(list)
    items = error.errors(include_url=False)
    misnamed = [item["loc"][:-1] for item in items if item["loc"][-1:] == ("[key]",)]
    for item in items:
        *parent, last = item["loc"] or ("",)
        if any(item["loc"][: len(loc)] == loc and last != "[key]" for loc in misnamed):
            continue  # what has the wrong name is not looked at
        if item["type"] in ("extra_forbidden", "missing") and isinstance(last, str):
            (unknown if item["type"] == "extra_forbidden" else missing)[tuple(parent)].append(last)
        elif isinstance(nested := item.get("ctx", {}).get("error"), BlockError):
            place, _ = _at(top, item["loc"])
            found |= {place + inner: sentence for inner, sentence in nested.problems}
        else:
            place, sentence = _problem(top, values, item)
            found.setdefault(place, sentence)
    for loc, keys in unknown.items():
        place, hint = _at(top, loc)
        found[place] = unknown_key(keys[0], _keys(hint), given=_value(values, place))
    for loc, keys in missing.items():
        place, hint = _at(top, loc)
        found.setdefault(place, missing_keys(keys, _keys(hint)))
    return [Problem(place, sentence) for place, sentence in found.items()]


def _problem(top: _Hint, values: Any, item: Any) -> Problem:
    loc, kind, context = item["loc"], item["type"], item.get("ctx", {})
    if loc and loc[-1] == "[key]":
        place, hint = _at(top, loc[:-2])
        return Problem(place, f"the key {shown(loc[-2])} must be {accepted(_hint(get_args(hint.type)[0]))}")
    if isinstance(loc[-1] if loc else None, int) and kind == "missing":
        loc = loc[:-1]  # a list that is too short
    place, hint = _at(top, loc)
    if "error" in context:
        return Problem(place, str(context["error"]))
    value = _value(values, place)
    if kind.startswith("union_tag") and isinstance(value, dict):
        key, options = context["discriminator"].strip("'"), list(_tagged(hint))
        if key in value:
            return Problem((*place, key), unlike(value[key], options))
        return Problem(place, f"{key!r} is missing; it is {_either(options)}")
    if get_origin(hint.type) is Literal:
        return Problem(place, unlike(value, get_args(hint.type)))
    text = "the text " if isinstance(value, str) and hint.type in (int, float, bool) else ""
    return Problem(place, f"must be {accepted(hint)}, not {text}{shown(value)}")


def accepted(hint: Any) -> str:
    """A type in words: "a whole number greater than or equal to 1"."""
    hint = hint if isinstance(hint, _Hint) else _hint(hint)
    if words := next((w for e in hint.extras if (w := getattr(e, "description", None))), None):
        return words
    kind, arguments = get_origin(hint.type) or hint.type, get_args(hint.type)
    if kind in (Union, UnionType):
        return _accepted_union(hint)
    if kind is Literal:
        return _either(arguments)
    if kind in (int, float):
        return " ".join(["a whole number" if kind is int else "a number", _limits(hint)]).strip()
    if kind is str:
        pattern = next((e.pattern for e in hint.extras if getattr(e, "pattern", None)), None)
        return {None: "text", NAME: "a name made of a-z, 0-9, _ and -"}.get(pattern, f"text that matches {pattern}")
    if kind is list:
        least = next((f" of at least {e.min_length}" for e in hint.extras if hasattr(e, "min_length")), "")
        return f"a list{least}, each {accepted(arguments[0])}"
    if kind is tuple:
        parts = [accepted(part) for part in arguments]
        return f"a list of {len(parts)}, " + (f"each {parts[0]}" if len(set(parts)) == 1 else "; ".join(parts))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"a mapping with the keys {listed(kind.model_fields)}"
    return {bool: "true or false", NoneType: "null", dict: "a mapping"}.get(kind, "something else")


def _accepted_union(hint: _Hint) -> str:
    branches = _branches(hint)
    if isinstance(key := _discriminator(hint), str):
        return f"a mapping with the {key} {_either(_tagged(hint))}"
    if all(isinstance(b.type, type) and issubclass(b.type, BaseModel) for b in branches):
        return f"a mapping with the keys {'; or '.join(map(listed, _keys(hint)))}"
    return ", or ".join(map(accepted, get_args(hint.type)))


def unknown_key(key: str, families: list[list[str]], given: Iterable[str] = ()) -> str:
    """The sentence for a key that is in none of the families of keys that go together."""
    candidates = [name for family in families for name in family]
    free = [] if key in candidates else [name for name in candidates if name not in given]
    takes = "; or ".join(map(listed, families))
    return f"unknown key {key!r}{hinted(key, free)} It takes {'either ' * (len(families) > 1)}{takes}"


def missing_keys(keys: list[str], families: list[list[str]]) -> str:
    """The sentence for keys that are not there."""
    verb = "is" if len(keys) == 1 else "are"
    return f"{_row(map(repr, keys), 'and')} {verb} missing; it takes {'; or '.join(map(listed, families))}"


def unlike(value: Any, options: Iterable[Any]) -> str:
    """The sentence for a value that is none of the options."""
    return f"must be {_either(options)}, not {shown(value)}{hinted(value, options).rstrip('.')}"


def hinted(word: Any, known: Iterable[Any]) -> str:
    """A question, "; did you mean 'simclr'?", or a full stop if nothing known comes near."""
    close = difflib.get_close_matches(str(word), [k for k in known if isinstance(k, str)], n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."


def listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(map(str, names))) or "none"


def shown(value: Any) -> str:
    """A value as YAML writes it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _either(options: Iterable[Any]) -> str:
    return _row(map(shown, options), "or")


def _row(words: Iterable[str], last: str) -> str:
    """Words with commas between them, and "and" or "or" before the last."""
    return f" {last} ".join(", ".join(words).rsplit(", ", 1))


def _limits(hint: _Hint) -> str:
    words = [
        f"{word} {getattr(e, key)}" for key, word in LIMITS for e in hint.extras if getattr(e, key, None) is not None
    ]
    return " and ".join(words)


def _at(hint: _Hint, loc: Iterable[Any]) -> tuple[Place, _Hint]:
    """The place that pydantic's `loc` means, and what is accepted there: `loc` also names branches of unions."""
    steps, union = list(loc), None
    place: list[str | int] = []
    while steps:
        branches = _branches(hint)
        if len(branches) > 1:
            tagged = _tagged(hint)
            if steps[0] not in tagged:
                return tuple(place), hint  # without a tag the branches speak as one
            by_key = isinstance(_discriminator(hint), str)
            union, hint = (None if by_key else hint), tagged[steps.pop(0)]
            continue
        hint, union, step = _child(branches[0] if branches else hint, steps[0]), None, steps.pop(0)
        place.append(step)
    return tuple(place), union or hint


def _child(hint: _Hint, step: Any) -> _Hint:
    arguments = get_args(hint.type)
    if isinstance(hint.type, type) and issubclass(hint.type, BaseModel):
        field = hint.type.model_fields[step]
        bare = _hint(field.annotation)
        return _Hint(bare.type, [*bare.extras, *field.metadata, field])
    if get_origin(hint.type) is tuple:
        return _hint(arguments[step])
    return _hint(arguments[-1] if arguments else Any)  # of a list, of a mapping


def _hint(annotation: Any) -> _Hint:
    if get_origin(annotation) is not Annotated:
        return _Hint(annotation, [])
    kind, *extras = get_args(annotation)
    return _Hint(kind, [part for e in extras for part in ([*e.metadata, e] if isinstance(e, FieldInfo) else [e])])


def _branches(hint: _Hint) -> list[_Hint]:
    """The branches of a union but for null; none if it is no union."""
    is_union = get_origin(hint.type) in (Union, UnionType)
    return [_hint(branch) for branch in get_args(hint.type) if branch is not NoneType] if is_union else []


def _discriminator(hint: _Hint) -> Any:
    return next((d for e in hint.extras if (d := getattr(e, "discriminator", None))), None)


def _tagged(hint: _Hint) -> dict[str, _Hint]:
    """The branches of a discriminated union by their tag; none if it is another union."""
    key = _discriminator(hint)
    if key is None:
        return {}
    if isinstance(key, str):
        return {tag: b for b in _branches(hint) for tag in get_args(b.type.model_fields[key].annotation)}
    return {e.tag: b for b in _branches(hint) for e in b.extras if isinstance(e, Tag)}


def _keys(hint: _Hint) -> list[list[str]]:
    """The keys of a block, or of each of the blocks that are accepted."""
    return [list(b.type.model_fields) for b in _branches(hint) or [hint]]


def _value(values: Any, place: Place) -> Any:
    for step in place:
        values = values[step]
    return values
