"""No training: the encoder as it was initialized, the floor of every table."""

from stages.methods._method import Untrained


class Random(Untrained):
    """Starts from nothing but the seed."""

    starts = "fresh"
