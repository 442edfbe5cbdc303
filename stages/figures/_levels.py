"""Brightness and colors of a data set, drawn on one axis of levels."""

from collections.abc import Mapping
from typing import Any

from stages.figures import _numbers as n
from stages.figures import _svg as svg

CHANNELS = ("red", "green", "blue")


def draw(colors: Mapping[str, Any]) -> str:
    """How bright images are, and mean ± standard deviation of each channel, on one axis of levels."""
    left, right, top, base = 46.0, 440.0, 22.0, 112.0
    x = svg.linear(0, 255, left, right)
    most = max(colors["brightness"])
    body = svg.text(f"{n.many(colors['images'], 'image')} by mean brightness", left, 12, class_="axis")
    step = 256 // len(colors["brightness"])
    for low, count in zip(range(0, 256, step), colors["brightness"], strict=True):
        high = (base - top) * count / most
        bar = svg.element("rect", x=x(low) + 1, y=base - high, width=x(low + step) - x(low) - 2, height=high)
        body += svg.element("g", f"<title>{low} to {low + step - 1}: {n.many(count, 'image')}</title>{bar}")
    for tick in (0, 64, 128, 192, 255):
        body += svg.path([(x(tick), base), (x(tick), base + 88)], class_="grid")
        body += svg.text(str(tick), x(tick), base + 104, class_="tick middle")
    for place, (name, mean, std) in enumerate(zip(CHANNELS, colors["mean"], colors["std"], strict=True)):
        y = base + 22 + 26 * place
        ends = [(x(max(0, mean - std)), y), (x(min(255, mean + std)), y)]
        body += svg.text(name, left - 8, y + 4, class_="tick end")
        body += svg.path(ends, class_=f"whisker {name}") + svg.mark("circle", x(mean), y, 4.5, class_=name)
        body += svg.text(f"{mean:.0f} ± {std:.0f}", x(mean), y - 8, class_="tick middle value")
    levels = svg.element("g", body, class_="levels")
    return f"<figure>{svg.drawing(levels, 460, base + 112, 'brightness and colors of the images')}</figure>"
