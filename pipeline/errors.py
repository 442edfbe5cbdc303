"""Errors for the person who caused them: one sentence that says what is wrong, where, and what would be right.

    Refusal
    ├── ParamsError     params.yaml says something that cannot be done
    ├── MissingInput    an earlier stage has not run yet
    ├── InputsChanged   parameters, code or data were edited while the stage ran
    ├── TrainingError   a training cannot go on (non-finite loss, batch larger than the data set)
    │   └── RankLost    one of the processes that train together is gone
    └── ...             registry and recipes add their own

A command ends with the sentence and exit code 1; anything else is a bug and keeps its traceback.
"""


class Refusal(Exception):
    """The base of every error that is meant for a person."""


class ParamsError(Refusal):
    """params.yaml says something that cannot be done."""


class MissingInput(Refusal):
    """An earlier stage has not run yet."""


class InputsChanged(Refusal):
    """Parameters, code or data were edited while the stage ran."""


class TrainingError(Refusal):
    """A training cannot go on."""


class RankLost(TrainingError):
    """One of the processes that train together is gone, so the others cannot go on."""


class Stopped(BaseException):
    """SIGTERM or SIGINT asked the stage to stop; its state is kept in scratch."""
