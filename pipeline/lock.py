"""What dvc.lock says, and how two of its entries differ: no DVC needed.

An entry holds the command of a stage, its dependencies and outputs with their md5, and its parameters.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

UNKEYED = ("size", "nfiles")  # DVC leaves them out of its keys wherever they stand, parameters included


def read(root: Path) -> dict[str, dict[str, Any]]:
    """Stage name → its entry in dvc.lock; empty before the first run."""
    path = root / "dvc.lock"
    return parse(path.read_text()) if path.exists() else {}


def read_if_whole(root: Path) -> dict[str, dict[str, Any]]:
    """As `read`; empty while another stage's DVC, which rewrites the file in place, is in the middle of it."""
    from ruamel.yaml.error import YAMLError

    try:
        return read(root)
    except (YAMLError, TypeError, KeyError):
        return {}


def parse(text: str) -> dict[str, dict[str, Any]]:
    """Stage name → its entry in the text of a dvc.lock."""
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(text)["stages"]


def key(entry: dict[str, Any]) -> str:
    """The run-cache key of an entry of dvc.lock."""
    paths = [out["path"] for out in entry.get("outs", [])]
    text = json.dumps(_without(UNKEYED, {**entry, "outs": paths}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def hashes(items: list[dict[str, Any]]) -> dict[str, str]:
    """Path → md5 of the dependencies or outputs of an entry."""
    return {item["path"]: item["md5"] for item in items if "md5" in item}


def differences(locked: dict[str, Any] | None, now: dict[str, Any]) -> list[str]:
    """What changed since dvc.lock, a phrase each."""
    if locked is None:
        return ["dvc.lock has no entry of it"]
    reasons = ["its command changed"] if locked["cmd"] != now["cmd"] else []
    before, after = ({dep["path"]: dep.get("md5") for dep in entry.get("deps", [])} for entry in (locked, now))
    reasons += [f"{path} changed" for path in after if path in before and before[path] != after[path]]
    reasons += [f"{path} is a new dependency" for path in after.keys() - before.keys()]
    reasons += [f"{path} is no dependency any more" for path in before.keys() - after.keys()]
    old, new = (_leaves(entry.get("params", {}).get("params.yaml", {})) for entry in (locked, now))
    unset = "unset"
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key, unset) != new.get(key, unset))
    reasons += [f"{key}: {old.get(key, unset)} → {new.get(key, unset)}" for key in changed]
    paths = [[out["path"] for out in entry.get("outs", [])] for entry in (locked, now)]
    return reasons + (["its outputs changed"] if paths[0] != paths[1] else [])


def flat(tree: Any, prefix: str = "") -> dict[str, float]:
    """The numbers of a nested dictionary under dotted names; a `mean` goes by the name of its group.

    >>> flat({"knn.top1": {"test": {"mean": 0.9, "std": 0.1, "values": [0.8, 1.0]}, "protocol": "cosine"}})
    {'knn.top1.test': 0.9, 'knn.top1.test.std': 0.1}
    """
    if isinstance(tree, dict):
        return {k: v for key, value in tree.items() for k, v in flat(value, _joined(prefix, key)).items()}
    if isinstance(tree, int | float) and not isinstance(tree, bool):
        return {prefix: tree}
    return {}


def unkeyed(tree: Any, path: str = "") -> Iterator[str]:
    """The places in a nested parameter whose names DVC leaves out of its keys."""
    for key, value in tree.items() if isinstance(tree, dict) else []:
        here = f"{path}.{key}".lstrip(".")
        yield from [here] if key in UNKEYED else unkeyed(value, here)
    for value in tree if isinstance(tree, list) else []:
        yield from unkeyed(value, path)


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a nested dictionary under dotted names."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    return {k: v for key, value in tree.items() for k, v in _leaves(value, f"{prefix}.{key}".lstrip(".")).items()}


def _joined(prefix: str, key: str) -> str:
    return prefix if prefix and key == "mean" else f"{prefix}.{key}".lstrip(".")


def _without(keys: Iterable[str], tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without(keys, value) for key, value in tree.items() if key not in keys}
    return [_without(keys, value) for value in tree] if isinstance(tree, list) else tree
