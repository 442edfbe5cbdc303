"""Receipts: for every stage the code, data, versions and hardware that made its numbers."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stages.figures._page import Section
from stages.figures._study import Study


def section(study: Study) -> Section | None:
    """None in a study without a stage."""
    if not study.receipts:
        return None
    caption = (
        "What made the numbers: every stage in running order with its parameters and the MD5 sums of its code and "
        "data. The same code, data, versions and hardware give the same bytes."
    )
    return Section("receipts", "Receipts", caption, draw(study.receipts))


def draw(receipts: Sequence[Mapping[str, Any]]) -> str:
    """What all stages share in one sentence, then one folded line per stage in running order."""
    shared = _shared([receipt["hardware"] | receipt["versions"] for receipt in receipts])
    facts = ", ".join(f"{escape(key.replace('_', ' '))} {escape(str(value))}" for key, value in shared.items())
    stages = "".join(_stage(receipt, shared) for receipt in receipts)
    return f"<p class='note'>All stages: {facts}.</p><div class='receipts'>{stages}</div>"


def _shared(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts that every receipt states alike."""
    return {key: value for key, value in facts[0].items() if all(key in f and f[key] == value for f in facts)}


def _stage(receipt: Mapping[str, Any], shared: Mapping[str, Any]) -> str:
    facts = receipt["hardware"] | receipt["versions"]
    own = {key: value for key, value in facts.items() if key not in shared}
    note = f" <small>{escape(', '.join(f'{key} {value}' for key, value in own.items()))}</small>" if own else ""
    return (
        f"<details><summary><code>{escape(receipt['stage'])}</code>{note}</summary>"
        f"{_hashes('data', receipt['data'])}{_hashes('code', receipt['code'])}"
        f"<h4>parameters</h4><pre>{escape(_lines(receipt['params']))}</pre></details>"
    )


def _hashes(title: str, hashes: Mapping[str, str]) -> str:
    lines = "".join(
        f"<tr><th scope='row'>{escape(path)}</th><td><code>{escape(str(md5))}</code></td></tr>"
        for path, md5 in sorted(hashes.items())
    )
    return f"<h4>{title}</h4><table class='hashes'>{lines}</table>" if lines else ""


def _lines(values: Mapping[str, Any], depth: int = 0) -> str:
    """Nested mappings as indented `key: value` lines."""
    text = ""
    for key, value in sorted(values.items()):
        nested = isinstance(value, Mapping) and value
        inner = "\n" + _lines(value, depth + 1) if nested else f" {json.dumps(value)}\n"
        text += f"{'  ' * depth}{key}:{inner}"
    return text
