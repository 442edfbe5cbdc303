"""What a finetune learns from: views that its objective can tell apart, and a teacher that goes with it."""

import re
from pathlib import Path
from typing import Any, cast

from pipeline import paths, plugins
from pipeline.sentences import BlockError, Problem, hinted


def check_finetune(name: str, params: dict[str, Any]) -> None:
    """ParamsError at the key that is wrong; the blocks themselves and what they name are checked already."""
    block = params["finetunes"][name]
    objective = cast("Any", plugins.load("objectives", block["objective"]["name"]))
    _check_roles(f"finetunes.{name}.views", block, objective)
    where, teacher = f"finetunes.{name}.teacher", teacher_of(block)
    if teacher and objective.has_teacher:
        _check_teacher(where, name, teacher, params)
        return
    own, given = f"stages/objectives/{block['objective']['name']}.py", block["teacher"]
    if objective.has_teacher:
        raise _wrong(where, f"must be {paths.classifiers('<finetune>')}, what another finetune leaves, not {given}")
    if given != own:
        text = f"the objective {block['objective']['name']} has no teacher, so this must be {own}, not {given}"
        raise _wrong(where, text)


def teacher_of(finetune: dict[str, Any]) -> str | None:
    """The finetune that teaches this one, if it names one."""
    found = re.fullmatch(paths.classifiers("([^/]+)").as_posix(), Path(finetune["teacher"]).as_posix())
    return found[1] if found else None


def _check_roles(where: str, block: dict[str, Any], objective: Any) -> None:
    """Policies that do not name their views give views of one kind: enough where all play the same role."""
    wanted, given = list(objective.views), block["views"].get("roles")
    if given == wanted or (given is None and len(set(wanted)) == 1):
        return
    said = f"makes {', '.join(given)}" if given else "does not tell its views apart"
    text = (
        f"the objective {block['objective']['name']} takes the views {', '.join(wanted)} of an image and the policy "
        f"{block['views']['name']} {said}: write name: weak_strong with roles: [{', '.join(wanted)}]"
    )
    raise _wrong(where, text)


def _check_teacher(where: str, name: str, teacher: str, params: dict[str, Any]) -> None:
    """It exists, is no pupil of its pupil, and has learned the same classes from the same images and budgets."""
    finetunes, runs = params["finetunes"], params["runs"]
    if teacher not in finetunes:
        others = [other for other in finetunes if other != name]
        text = f"there is no finetune {teacher!r}{hinted(teacher, others)} The others are {', '.join(others) or 'none'}"
        raise _wrong(where, text)
    block, other, chain = finetunes[name], finetunes[teacher], [name]
    while (last := teacher_of(finetunes[chain[-1]])) in finetunes and last not in chain:
        chain.append(cast("str", last))
    if last == name:
        text = f"{' learns from '.join([*chain, name])}: one of them needs an objective without a teacher"
        raise _wrong(where, text)
    if other["dataset"] != block["dataset"]:
        text = f"{teacher!r} has learned the classes of {other['dataset']}: name one of {block['dataset']}"
        raise _wrong(where, text)
    if missing := [budget for budget in block["budgets"] if budget not in other["budgets"]]:
        raise _wrong(where, f"{teacher!r} has learned no budget {missing[0]!r}: add it to its budgets")
    if runs[other["run"]]["input"] != runs[block["run"]]["input"]:
        text = f"the run {other['run']!r} of {teacher!r} has another input than {block['run']!r}: give both the same"
        raise _wrong(where, text)


def _wrong(where: str, text: str) -> Exception:
    return BlockError(Problem((), text)).at(where)
