"""Are these the bytes that were published? The lock of this working copy beside the one in the last commit."""

from pathlib import Path
from typing import Any

from pipeline import lock, paths
from pipeline.recipes import git

ELSEWHERE = (
    "from the same code, data and parameters: another device, instruction set or package version (see its receipt)"
)


def words(root: Path) -> list[str]:
    """Where to look; then which outputs are those of the last commit, and why the others are not."""
    page = root / paths.REPORT / "index.html"
    first = f"the report: {page}" if page.exists() else "there is no report yet: `dvc repro` or `contrail run` makes it"
    if not page.exists():
        return [first]
    committed = git(root, "ls-tree", "--name-only", "HEAD", "dvc.lock")
    if not committed:
        return [first, "no dvc.lock is committed yet: there is nothing to compare with"]
    return [first, *compare(lock.parse(git(root, "show", "HEAD:./dvc.lock")), lock.read(root))]


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
            lines.append(f"{stage}: {', '.join(differ)} differ: {'; '.join(reasons)}")
    return [f"{same} of {total} outputs are, byte for byte, those of the last commit", *lines]
