"""How numbers are written on the page: one way each, with real minus signs and thin spaces."""

import re

THIN = "\N{THIN SPACE}"


def count(value: int) -> str:
    """1797 -> 1 797 (thin space)."""
    return f"{value:,}".replace(",", THIN)


def percent(fraction: float) -> str:
    """0.9612 -> 96.1."""
    return f"{100 * fraction:.1f}"


def plain(value: float) -> str:
    """Two decimals, one from 10 on, with a real minus sign."""
    return f"{value:.{1 if abs(value) >= 10 else 2}f}".replace("-", "\N{MINUS SIGN}")


def budget(name: str) -> str:
    """1pct -> 1 %; any other name as it is."""
    match = re.fullmatch(r"(\d+)pct", name)
    return f"{match[1]}{THIN}%" if match else name


def many(value: int, noun: str) -> str:
    """1 seed, 3 seeds."""
    return f"{count(value)} {noun}{'' if value == 1 else 's'}"
