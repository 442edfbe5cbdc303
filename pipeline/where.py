"""What came out, in a few lines, and are these the bytes that were published?

The scores of data/report/results.json, and the lock of this working copy beside the one in the last commit.
"""

import json
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline import lock, params, paths
from pipeline.recipes import git

HEADLINE = {"knn.top1": "kNN", "linear.top1": "linear"}
REASONS = 3  # that a line gives
PAGE = paths.REPORT / "index.html"
ELSEWHERE = (
    "from the same code, data and parameters: another device, instruction set or package version (see its receipt)"
)


def words(root: Path) -> list[str]:
    """The results; then which outputs are those of the last commit, and why the others are not."""
    if not (root / PAGE).exists():
        return results(root)
    committed = git(root, "ls-tree", "--name-only", "HEAD", "dvc.lock")
    if not committed:
        return [*results(root), "no dvc.lock is committed yet: there is nothing to compare with"]
    before = YAML(typ="safe").load(git(root, "show", "HEAD:./params.yaml"))["study"]
    if before != params.read(root / "params.yaml")["study"]:
        return [*results(root), f"the last commit holds another study, {before}: there is nothing to compare with"]
    return [*results(root), *compare(lock.parse(git(root, "show", "HEAD:./dvc.lock")), lock.read(root))]


def results(root: Path) -> list[str]:
    """The scores as a table, if there are some of this study; then where the report is."""
    file, page = root / paths.REPORT / "results.json", root / PAGE
    scores = json.loads(file.read_text()) if file.exists() else {}
    table = drawn(scores, params.read(root / "params.yaml"))
    if not page.exists():
        return [*table, "there is no report yet: `dvc repro` or `contrail run` makes it"]
    return [*table, f"the report: {page}"]


def drawn(scores: dict[str, Any], study: dict[str, Any]) -> list[str]:
    """A line for each row in the order of the study, a column for each headline score; none for another study's."""
    rows = dict.fromkeys([*study.get("evaluations", {}), *study.get("finetunes", {})])
    if not scores or not scores.keys() <= rows.keys():
        return []
    budgets = dict.fromkeys(budget for block in study["finetunes"].values() for budget in block["budgets"])
    columns = HEADLINE | {f"finetune.{budget}.top1": f"fine-tuned {re.sub('pct$', ' %', budget)}" for budget in budgets}
    columns = {score: head for score, head in columns.items() if any(score in has for has in scores.values())}
    if not columns:
        return ["nothing is judged by classes: the report has the geometry of the features"]
    lines = [["top-1 on test, %", *columns.values()], ["labels", *(_labels(scores, score) for score in columns)]]
    lines += [[row, *(_spread(scores[row].get(score)) for score in columns)] for row in rows if row in scores]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in lines]


def _labels(scores: dict[str, Any], score: str) -> str:
    """How many labels a score used, the least and the most where rows differ."""
    used = [has[score]["labels_used"] for has in scores.values() if score in has]
    return " to ".join(f"{count:,}" for count in sorted({min(used), max(used)}))


def _spread(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "–"
    test = entry["test"]
    return f"{100 * test['mean']:4.1f}" + (f" ± {100 * test['std']:.1f}" if test["n"] > 1 else "")


def compare(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """Our lock beside theirs: a count, then a line for each stage whose outputs differ."""
    lines, same, total = [], 0, 0
    for stage, entry in ours.items():
        published = {out["path"]: out["md5"] for out in theirs.get(stage, {}).get("outs", [])}
        differ = [out["path"] for out in entry["outs"] if published.get(out["path"]) != out["md5"]]
        total += len(entry["outs"])
        same += len(entry["outs"]) - len(differ)
        if differ:
            reasons = lock.differences(theirs.get(stage), entry) or [ELSEWHERE]
            more = [f"and {len(reasons) - REASONS} more"] if len(reasons) > REASONS else []
            lines.append(f"{stage}: {', '.join(differ)} differ: {'; '.join(reasons[:REASONS] + more)}")
    return [f"{same} of {total} outputs are, byte for byte, those of the last commit", *lines]
