"""Numbers that move over a training, other than the learning rate: momentum of a teacher, temperatures, weights."""

import math
from typing import Literal

from pydantic import model_validator

from pipeline.params import Block, NonNegative, Positive, Probability


class Ramp(Block):
    """From `start` to `end` by BYOL's rule, end − (end − start)(cos πk/K + 1)/2 at step k of K; equal: a constant."""

    start: NonNegative
    end: NonNegative

    def at(self, progress: float) -> float:
        """The value when `progress` (0 to 1) of the training is done."""
        return self.end - (self.end - self.start) * (math.cos(math.pi * progress) + 1) / 2


class Momentum(Ramp):
    """The share of itself that a teacher keeps in a step: 0 copies, 1 stays."""

    start: Probability
    end: Probability


class Temperature(Ramp):
    """What logits are divided by before a softmax."""

    start: Positive
    end: Positive


class Growth(Block):
    """A weight that grows to `weight` between the shares `begin` and `end` of the training; equal: from there on.

    linear    0 before, then in proportion (Pseudo-Label)
    gaussian  weight · exp(−5 (1 − t)²), t from 0 to 1 in between (Laine & Aila 2017, arXiv:1610.02242; Mean Teacher)
    """

    weight: NonNegative
    shape: Literal["linear", "gaussian"]
    begin: Probability
    end: Probability

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> "Growth":
        if self.begin > self.end:
            raise ValueError(f"begin {self.begin} comes after end {self.end}: both are shares of the training")
        return self

    def at(self, progress: float) -> float:
        """The value when `progress` (0 to 1) of the training is done."""
        if progress >= self.end:
            return self.weight
        t = (progress - self.begin) / (self.end - self.begin) if progress > self.begin else 0.0
        return self.weight * (t if self.shape == "linear" else math.exp(-5 * (1 - t) ** 2))


class Annealing(Block):
    """UDA's threshold on labeled images: from 1/classes to 1, η = a (1 − 1/K) + 1/K.

    linear a = t, exp a = e^(5(t − 1)), log a = 1 − e^(−5t), t the share of the training that is done.
    """

    shape: Literal["linear", "exp", "log"]

    def at(self, progress: float, classes: int) -> float:
        """The probability above which an image has been learned well enough."""
        a = {"linear": progress, "exp": math.exp(5 * (progress - 1)), "log": 1 - math.exp(-5 * progress)}[self.shape]
        return a * (1 - 1 / classes) + 1 / classes
