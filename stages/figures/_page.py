"""The page around the figures: one HTML file that needs nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup


@dataclass(frozen=True)
class Section:
    """One figure on the page: `key` is its anchor, `caption` says protocol and n, `body` is HTML; both are trusted.

    Two `half` sections in a row stand side by side where there is room.
    """

    key: str
    title: str
    caption: str
    body: str
    half: bool = False


def render(study: str, opening: str, facts: Sequence[Sequence[tuple[str, str]]], sections: Sequence[Section]) -> str:
    """The whole page; `opening` is HTML, `facts` are groups of (name, value) in plain text."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    settings = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    trusted = [Section(s.key, s.title, Markup(s.caption), Markup(s.body), s.half) for s in sections]
    page = settings.get_template("page.html")
    return page.render(study=study, opening=Markup(opening), facts=facts, sections=trusted) + "\n"
