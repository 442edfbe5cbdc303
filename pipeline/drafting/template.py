"""A commented params.yaml with other values: every line that is not asked for stays as it is, to the letter."""

import json
import re

KEY = re.compile(r"(?P<indent> *)(?P<key>[\w-]+):(?P<anchor> &\w+)?(?: [^#]*?)?(?P<comment> *#.*)?$")
WORDS = ("true", "false", "null")


def filled(template: str, values: dict[str, str]) -> str:
    """`template` with `values` at dotted places; keys, anchors and comments stay, what stood below a place goes.

    A value is what stands behind the colon, further lines included; a comment of its own replaces the template's.
    """
    left, lines, above = dict(values), list[str](), list[str]()
    replaced: int | None = None  # indent of the key whose former block is passed over
    for line in template.splitlines():
        indent = len(line) - len(line.lstrip())
        if replaced is not None and line.strip() and indent > replaced:
            continue
        key = KEY.match(line)
        replaced = replaced if not line.strip() else None
        if key:
            above = [*above[: indent // 2], key["key"]]
            value = left.pop(".".join(above), None)
            if value is not None:
                line, replaced = _line(key, value), indent  # noqa: PLW2901  # the line as it will be
        lines.append(line)
    assert not left, f"the template has no {', '.join(left)}"
    return "\n".join(lines) + "\n"


def _line(key: re.Match[str], value: str) -> str:
    head, _, block = value.partition("\n")
    comment = f" {key['comment'].strip()}" if key["comment"] and " #" not in value else ""
    line = f"{key['indent']}{key['key']}:{key['anchor'] or ''}{' ' if head else ''}{head}{comment}"
    return f"{line}\n{block}" if block else line


def scalar(value: str | int | None) -> str:
    """A value as YAML writes it: quoted where it would be read as something else."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value) and value not in WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)
