"""Views of an image: what each way of drawing views makes of it, left the original."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from pipeline import plugins
from stages.figures import _images
from stages.figures._page import Section
from stages.figures._study import Study

IMAGES = 4
VIEWS = 8  # per image


@dataclass(frozen=True)
class Drawn:
    """Images and their views under one `views:` block of params.yaml, and the runs that train on it."""

    runs: Sequence[str]
    views: Mapping[str, Any]
    originals: Sequence[np.ndarray]  # uint8 (h, w, 3)
    drawn: Sequence[Sequence[np.ndarray]]  # per image, its views uint8 (h, w, 3)


def section(study: Study) -> Section | None:
    """One block per different `views:` of the runs that train; None where nothing trains or images are private."""
    if study.private:
        return None
    groups: dict[str, list[str]] = {}
    for run in study.curves:
        block = study.runs[run]
        groups.setdefault(json.dumps([block["dataset"], block["input"]["side"], block["views"]]), []).append(run)
    body = draw([_drawn(study, runs) for runs in groups.values()])
    caption = (
        "Left the image, then views of it as training draws them in its first epochs (first seed). "
        "What differs between the views of an image is what the features learn to ignore."
    )
    return Section("views", "Views of an image", caption, f'<div class="panels">{body}</div>') if groups else None


def _drawn(study: Study, runs: Sequence[str]) -> Drawn:
    import torch

    from stages.views._draws import Source
    from stages.views._operations import Pixels

    block = study.runs[runs[0]]
    data = study.prepared(block["dataset"])
    rows = data.pretrain[np.linspace(0, len(data.pretrain) - 1, IMAGES + 1).astype(int)[:-1]]
    pixels, extents = data.images.read(rows)
    images = Pixels(torch.from_numpy(pixels), None if extents is None else torch.from_numpy(extents))
    make = plugins.specify("views", block["views"], f"runs.{runs[0]}.views").make
    drawn: list[list[np.ndarray]] = [[] for _ in rows]
    epoch = 0
    while len(drawn[0]) < VIEWS:
        source = Source(seed=block["seeds"][0], epoch=epoch, index=torch.from_numpy(rows))
        for view in make(images, source, block["input"]["side"]):
            shown = (view * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
            for tiles, tile in zip(drawn, shown, strict=True):
                tiles.append(tile)
        epoch += 1
    return Drawn(
        runs, block["views"], [data.images.image(row) for row in rows.tolist()], [tiles[:VIEWS] for tiles in drawn]
    )


def draw(blocks: Sequence[Drawn]) -> str:
    """One block per different `views:`."""
    return "".join(_block(block) for block in blocks)


def _block(block: Drawn) -> str:
    lines = ""
    for original, views in zip(block.originals, block.drawn, strict=True):
        tiles = "".join(f'<span class="tile">{_images.tag(view, "a view")}</span>' for view in views)
        lines += f'<div class="views"><span class="tile first">{_images.tag(original, "the image")}</span>{tiles}</div>'
    settings = ", ".join(f"{key} {_short(value)}" for key, value in block.views.items() if key != "name")
    runs = ", ".join(map(escape, block.runs))
    settings = (
        f"<details><summary>settings</summary><p class='note'>{escape(settings)}</p></details>" if settings else ""
    )
    return (
        f'<div class="block"><p><b>{escape(block.views["name"])}</b> <small>{runs}</small></p>{lines}{settings}</div>'
    )


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_short(inner)}" for key, inner in value.items()) + ")"
    if isinstance(value, list):
        return "–".join(map(_short, value)) if len(value) == 2 else " ".join(map(_short, value))
    return str(value)
