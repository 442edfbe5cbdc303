"""No training here: an encoder trained elsewhere, with the weights of `init`, as a row judged like any other."""

from stages.methods._method import Untrained


class Imported(Untrained):
    """What it has seen before, and with which labels, only its origin can say."""

    starts = "from weights"
