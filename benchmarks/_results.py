"""What was measured, as JSON beside the machine and the versions, and as a table in README.md.

    results/cpu.json   {"machine": …, "versions": …, "<claim>": {value, spread, pairs, what, ours, other, …}, …}
    README.md          the same as a table, between markers

What is no ratio has a sentence instead: {"said": …, "command": …}.
"""

import json
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks._paired import Record, cores
from pipeline.hardware import cpu_model

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
README = FOLDER / "README.md"
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "lightly", "kornia", "faiss-cpu")
ABOUT = ("machine", "versions")  # what is no claim

Measure = Callable[[bool], dict[str, Record]]


def command(measure: Measure, file: str = "cpu.json") -> None:
    """Measure, print and keep; with `--smoke` on tiny sizes, to see that it runs, and nothing is kept."""
    smoke = "--smoke" in sys.argv[1:]
    records = measure(smoke)
    for name, record in records.items():
        print(f"{name}: {shown(record.value)} ({shown(record.spread[0])} … {shown(record.spread[1])}) {record.what}")
    if not smoke:
        keep({name: asdict(record) for name, record in records.items()}, file)


def keep(records: dict[str, Any], file: str) -> None:
    """Put records into a file of results/ and the tables into README.md."""
    path, about = RESULTS / file, {"machine": machine(), "versions": versions()}
    before = json.loads(path.read_text()) if path.exists() else about
    if any(before[key] != about[key] for key in ABOUT):
        print(f"not kept: {path} is of another machine or of other versions; remove it to begin anew")
        return
    path.write_text(json.dumps(before | records, indent=1, ensure_ascii=False) + "\n")
    rewrite()


def machine() -> dict[str, Any]:
    """What the figures depend on, and no name of a host."""
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
    } | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def versions() -> dict[str, str]:
    """Python and the packages that take part, those that are there."""
    there = {package.metadata["Name"].lower(): package.version for package in metadata.distributions()}
    return {"python": platform.python_version()} | {name: there[name] for name in PACKAGES if name in there}


# ---- README.md


def shown(value: float) -> str:
    """Three digits, and all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(results: dict[str, Any]) -> str:
    """The claims of one file as a table, what they were measured on above it."""
    on = ", ".join(f"{value}" for value in results["machine"].values())
    with_ = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    heads = ["claim", "median", "quartiles", "pairs", "asked", "met", "ours", "other", "what"]
    lines = [heads, ["---", *["---:"] * 7, "---"]]
    claims = {name: record for name, record in results.items() if name not in ABOUT}
    lines += [row(name, Record(**record)) for name, record in claims.items() if "said" not in record]
    said = [f"- {record['said']}; `{record['command']}`" for record in claims.values() if "said" in record]
    ratios = [f"| {' | '.join(line)} |" for line in lines] if len(lines) > 2 else []
    return "\n".join([f"{on}; {with_}.", *([""] if ratios else []), *ratios, *([""] if said else []), *said])


def row(name: str, record: Record) -> list[str]:
    """One line of the table."""
    low, high = record.spread
    met = {None: "", True: "yes", False: "**no**"}[record.met]
    return [
        f"`{name}`",
        shown(record.value),
        f"{shown(low)} … {shown(high)}",
        str(record.pairs),
        record.target,
        met,
        shown(record.ours),
        shown(record.other),
        f"{record.what}; in {record.unit}; `{record.command}`",
    ]


def tables() -> dict[str, str]:
    """Every generated block of README.md: one for each file of results/."""
    return {path.stem: table(json.loads(path.read_text())) for path in sorted(RESULTS.glob("*.json"))}


def block(name: str, page: str) -> str:
    """What stands between the markers of a generated block."""
    return page.split(f"<!-- {name}:begin -->\n")[1].split(f"\n<!-- {name}:end -->")[0]


def rewrite() -> None:
    """Bring the tables up to date; a file of results/ without a block gets one at the end of the page."""
    page = README.read_text()
    for name, text in tables().items():
        begin, end = (f"<!-- {name}:{edge} -->" for edge in ("begin", "end"))
        if begin not in page:
            page += f"\n## {name}\n\n{begin}\n\n{end}\n"
        page = page.replace(f"{begin}\n{block(name, page)}\n{end}", f"{begin}\n{text}\n{end}")
    README.write_text(page)
