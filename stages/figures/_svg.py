"""Scalable drawings as strings: elements, axes, marks. Colors come from the page's style sheet, so dark mode works."""

import math
from collections.abc import Callable, Sequence
from html import escape

Scale = Callable[[float], float]

CORNERS = {
    "square": ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)),
    "triangle": ((0, -1.3), (1.2, 0.8), (-1.2, 0.8)),
    "down": ((0, 1.3), (1.2, -0.8), (-1.2, -0.8)),
    "diamond": ((0, -1.3), (1.2, 0), (0, 1.3), (-1.2, 0)),
}


def number(value: float) -> str:
    """A coordinate with at most two decimals: the same text on every machine."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value else "0"


def element(tag: str, body: str = "", /, **attributes: object) -> str:
    """`<tag a="1">body</tag>`; `class_` gives class, other underscores become hyphens; body is taken as it is."""
    text = []
    for key, value in attributes.items():
        shown = number(value) if isinstance(value, float) else str(value)
        text.append(f' {key.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    return f"<{tag}{''.join(text)}>{body}</{tag}>" if body else f"<{tag}{''.join(text)}/>"


def text(words: str, x: float, y: float, **attributes: object) -> str:
    return element("text", escape(words), x=float(x), y=float(y), **attributes)


def path(points: Sequence[tuple[float, float]], **attributes: object) -> str:
    """A line through `points` (x, y)."""
    return element("path", d="M" + "L".join(f"{number(x)} {number(y)}" for x, y in points), **attributes)


def drawing(body: str, width: float, height: float, label: str) -> str:
    """A whole `<svg>` that scales with the page; `label` is what a screen reader says."""
    view = f"0 0 {number(width)} {number(height)}"
    return element("svg", body, viewBox=view, role="img", aria_label=label, style=f"max-width:{number(width * 1.25)}px")


def linear(low: float, high: float, start: float, stop: float) -> Scale:
    """Maps low..high to start..stop; all to start where low and high are one."""
    return lambda value: start + (value - low) / ((high - low) or 1.0) * (stop - start)


def logarithmic(low: float, high: float, start: float, stop: float) -> Scale:
    """Maps low..high (> 0) to start..stop, equal ratios to equal distances."""
    inner = linear(math.log(low), math.log(high), start, stop)
    return lambda value: inner(math.log(value))


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) inside low..high."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def mark(shape: str, x: float, y: float, size: float, words: str = "", **attributes: object) -> str:
    """A point: circle, square, triangle, diamond or down (a triangle on its tip), of about equal area.

    `words` appear on hover.
    """
    title = element("title", escape(words)) if words else ""
    if shape == "circle":
        return element("circle", title, cx=float(x), cy=float(y), r=float(size), **attributes)
    d = "M" + "L".join(f"{number(x + a * size)} {number(y + b * size)}" for a, b in CORNERS[shape]) + "Z"
    return element("path", title, d=d, **attributes)


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """`places` moved apart until neighbors are at least `gap` away and inside low..high, order kept (for labels)."""
    order = sorted(range(len(places)), key=lambda index: (places[index], index))
    moved = list(places)
    floor = low
    for index in order:
        moved[index] = max(moved[index], floor)
        floor = moved[index] + gap
    ceiling = high
    for index in reversed(order):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - gap
    return moved
