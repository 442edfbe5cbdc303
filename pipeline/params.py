"""params.yaml → checked arguments. A signature is the schema: what a function takes is what params.yaml may say.

A stage or plug-in states its parameters as keyword-only arguments with types; groups of parameters are `Block`s. Values
are checked strictly (no coercion from strings, no unknown keys); an error is a sentence with the place in params.yaml.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, Field, model_validator

from pipeline.errors import ParamsError
from pipeline.sentences import (
    NAME,
    BlockError,
    Problem,
    listed,
    missing_keys,
    problems,
    shown,
    unknown_key,
)


def _different(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"a seed stands twice in {seeds}: each is one result")
    return seeds


Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=NAME)]
Seeds = Annotated[
    list[Annotated[int, Field(ge=0)]],
    Field(min_length=1),
    AfterValidator(_different),
]

STRICT = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
COMMANDS = {  # section of params.yaml → the commands that read its blocks, in running order
    "datasets": ["prepare"],
    "runs": ["pretrain"],
    "evaluations": ["embed", "evaluate"],
    "finetunes": ["finetune"],
    "selections": ["select"],
}
SECTIONS = tuple(COMMANDS)
SHARED = {"hardware", "private", "study"}  # what a command may take that is not in its block


class Block(pydantic.BaseModel):
    """A named group of parameters: strict types, no unknown keys, immutable."""

    model_config = STRICT


class Hardware(Block):
    """What the bits depend on; `device: auto` is the first GPU if there is one, else the CPU."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda|cuda:[0-9]+)$", description="auto, cpu, cuda or cuda:<n>")]
    threads: Count
    precision: Literal["fp32", "bf16"]
    deterministic: bool
    ranks: Count  # processes that train one encoder together
    compile: bool

    @model_validator(mode="after")
    def _has_a_device_a_rank(self) -> "Hardware":
        if self.device.startswith("cuda:") and self.ranks > 1:
            raise ValueError(f"device {self.device} is one GPU for {self.ranks} ranks: write cuda")
        return self


def read(path: Path | str = "params.yaml") -> dict[str, Any]:
    """Params.yaml as plain Python values, in the YAML dialect that DVC speaks (1.2: `1e-4` is a number)."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not Path(path).exists():
        raise ParamsError(f"there is no {path}")
    try:
        values = YAML(typ="safe").load(Path(path))
    except YAMLError as error:
        raise ParamsError(_unreadable(path, error)) from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path} must be a mapping with the keys study, private, hardware, {', '.join(SECTIONS)}")
    try:
        plain = json.loads(json.dumps(values))  # anchors become plain copies
    except (TypeError, ValueError) as error:
        raise ParamsError(
            f"{path} holds more than numbers, text, true, false, null, lists and mappings: {error}"
        ) from None
    _require_text_keys(values, f"{path}: ")
    return plain


def arguments(function: Callable, values: Any, where: str) -> dict[str, Any]:
    """The keyword-only arguments of `function`, taken from `values` and checked against their annotations.

    `where` is the place in params.yaml ("runs.simclr.method"); ParamsError names it and says what is accepted.
    """
    try:
        return checked(function, frozenset(keywords(function)), values, where)
    except BlockError as error:
        raise error.at(where) from None


def checked(function: Callable, names: frozenset[str], values: Any, where: str) -> dict[str, Any]:
    """The keyword-only arguments `names` of `function`; BlockError says what is wrong with `values`, and where."""
    if not isinstance(values, dict):
        raise BlockError(Problem((), f"must be a mapping with the keys {listed(names)}, not {shown(values)}"))
    model = _model(function, names)
    try:
        found = model.model_validate_json(json.dumps(values), strict=True, context={"where": where})
    except pydantic.ValidationError as error:
        raise BlockError(*problems(model, values, error)) from None
    return {name: getattr(found, name) for name in keywords(function) if name in names}


@cache
def _model(function: Callable, names: frozenset[str]) -> type[pydantic.BaseModel]:
    fields = {name: field for name, field in keywords(function).items() if name in names}
    return pydantic.create_model("Arguments", __config__=STRICT, **fields)


def keywords(function: Callable) -> dict[str, Any]:
    """Name → (type, default) of the keyword-only parameters, as pydantic wants them."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return {
        p.name: (_ranged(p.annotation), ... if p.default is p.empty else p.default)
        for p in parameters
        if p.kind is p.KEYWORD_ONLY
    }


def _ranged(annotation: Any) -> Any:
    """`Annotated[int, range(1, 9)]`, how a file that imports torch only states a range, as pydantic says it."""
    spans = [extra for extra in getattr(annotation, "__metadata__", ()) if isinstance(extra, range)]
    return Annotated[int, Field(ge=spans[0].start, lt=spans[0].stop)] if spans else annotation


def check(params: dict[str, Any]) -> None:
    """The whole of params.yaml, every plug-in included; raises ParamsError at the first wrong block."""
    from pipeline import plugins, references

    _known("", params, ("study", "private", "hardware", *SECTIONS))
    arguments(_study, {key: params[key] for key in ("study", "private", "hardware")}, "")
    for section, commands in COMMANDS.items():
        if not isinstance(params[section], dict):
            text = f"must be a mapping of named blocks, {{}} for none, not {shown(params[section])}"
            raise BlockError(Problem((), text)).at(section)
        for name, block in params[section].items():
            where = f"{section}.{name}"
            if not re.fullmatch(NAME, name):
                text = "a name may hold only a-z, 0-9, _ and -; it becomes a DVC stage, an MLflow run and a folder"
                raise BlockError(Problem((), text)).at(where)
            check_block(where, block, [plugins.command(command) for command in commands])
    references.check(params)


def check_block(where: str, block: Any, functions: list[Callable]) -> None:
    """A block that several commands share: each takes the keys it names, together they take all."""
    own = {function: frozenset(keywords(function)) - SHARED for function in functions}
    accepted = frozenset().union(*own.values())
    if not isinstance(block, dict):
        raise BlockError(Problem((), f"must be a mapping with the keys {listed(accepted)}, not {shown(block)}")).at(
            where
        )
    _known(where, block, accepted)
    for function, names in own.items():
        try:
            checked(function, names, {key: block[key] for key in names}, where)
        except BlockError as error:
            raise error.at(where) from None


def _study(*, study: Name, private: bool, hardware: Hardware) -> None: ...


def _known(where: str, values: dict, accepted: Iterable[str]) -> None:
    families = [list(accepted)]
    if unknown := [key for key in values if key not in families[0]]:
        raise BlockError(Problem((), unknown_key(unknown[0], families, given=values))).at(where)
    if missing := [key for key in families[0] if key not in values]:
        raise BlockError(Problem((), missing_keys(sorted(missing), families))).at(where)


def _require_text_keys(tree: Any, where: str) -> None:
    """ParamsError for a key that YAML reads as a number or a word of its own: DVC would leave its stages out."""
    items = list(tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ())
    for key, value in items:
        if isinstance(tree, dict) and not isinstance(key, str):
            raise ParamsError(
                f"{where}{shown(key)} is no text as a name: quote it, or choose a name that starts with a letter"
            )
        _require_text_keys(value, f"{where}{key}.")


def _unreadable(path: Path | str, error: Any) -> str:
    """A parser's error without its advice on the parser."""
    mark = getattr(error, "problem_mark", None)
    line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{path}{line} is not valid YAML: {getattr(error, 'problem', None) or str(error).splitlines()[0]}"
