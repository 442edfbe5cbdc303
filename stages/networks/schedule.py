"""Numbers that move over a training, other than the learning rate: momentum of a teacher, temperatures."""

import math

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
