"""`private: true` of params.yaml: what would say where images lie, made unsayable before it is shown or sent."""

from typing import Any

from pipeline import paths

HIDDEN = "a private file"


def masked(tree: Any) -> Any:
    """A tree of parameters, or of paths, without the names of what lies in data/raw and without those of a source."""
    if isinstance(tree, str):
        return HIDDEN if tree.startswith(f"{paths.RAW}/") else tree
    if isinstance(tree, list):
        return [masked(value) for value in tree]
    if not isinstance(tree, dict):
        return tree
    return {masked(key): _source(value) if key == "source" else masked(value) for key, value in tree.items()}


def _source(block: dict[str, Any]) -> dict[str, Any]:
    """A source without its texts, of which any may be a file or a name in one."""
    return {key: HIDDEN if isinstance(value, str) and key != "name" else masked(value) for key, value in block.items()}
