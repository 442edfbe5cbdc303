"""The solver of the probes that are linear: multinomial logistic regression for a whole path of penalties.

    minimize over W, b     mean_i -log softmax(W z_i + b)[y_i]  +  λ/2 ‖W‖²           z = (x - mean) / scale

One number scales all features: afterwards their total variance over the training images is 1, so that a penalty λ means
the same for every encoder, whatever the width and the magnitude of its features, and rotating, permuting, repeating or
zero-padding them changes nothing. Nothing is standardized per dimension.

Solver: Newton's method, loss and gradient in float64; each step solves  H p = -g  by conjugate gradients, H in float32,
preconditioned by  diag(variance of z) ⊗ diag(mean p_c (1 - p_c)) + λ  in the basis where the covariance of z is
diagonal; the penalties share every product with z. Deterministic: no start value, order or batch is drawn. Rows are
looked at a block at a time, so memory grows with the features alone: not with images × penalties × classes.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from pydantic import model_validator
from torch import Tensor
from torch.nn.functional import one_hot

from pipeline.errors import Refusal
from pipeline.params import Block, Count, Positive

NEWTON_STEPS = 100
CG_STEPS = 250
HALVINGS = 40
CELLS = 2**23  # logits in a block of rows
KEPT = 2**27  # logits of all rows that are kept from one product to the next; more are computed each time
GAP = 1e-6  # g·M⁻¹g, about twice what the loss could still fall (nats); predictions settle long before


Examples = tuple[Tensor, Tensor]  # features (n, d), labels int64 (n,)


class Penalties(Block):
    """`steps` values of λ from `low` to `high`, evenly spaced in log λ."""

    low: Positive
    high: Positive
    steps: Count

    @model_validator(mode="after")
    def _ordered(self) -> "Penalties":
        if self.low > self.high:
            raise ValueError(f"low ({self.low:g}) must not be above high ({self.high:g})")
        return self

    def values(self) -> Tensor:
        """Strongest first, float64 (steps,)."""
        return torch.logspace(math.log10(self.high), math.log10(self.low), self.steps, dtype=torch.float64)

    @property
    def words(self) -> str:
        """For a protocol."""
        return (
            f"features scaled to total variance 1, L2 penalty chosen out of {self.steps} from {self.low:g} to "
            f"{self.high:g}"
        )


class Fitted(NamedTuple):
    """The classifier of one penalty: weight float64 (d, classes), bias float64 (classes,)."""

    weight: Tensor
    bias: Tensor
    penalty: float


def fit_best(train: Examples, val: Examples, *, classes: int, penalties: Penalties) -> Fitted:
    """Fitted on `train`, features (n, d) and labels (n,), by the penalty with the best top-1 on `val`.

    Of equal ones the strongest wins.
    """
    path = penalties.values()
    weight, bias = fit(*train, classes=classes, penalties=path)
    features, labels = val
    correct = torch.stack([(classify(features, w, b) == labels).sum() for w, b in zip(weight, bias, strict=True)])
    best = int(correct.argmax())  # the first of equals: the strongest penalty
    return Fitted(weight[best], bias[best], float(path[best]))


def fit(features: Tensor, labels: Tensor, *, classes: int, penalties: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (p, d, classes) and bias (p, classes), float64, of features (n, d), labels (n,), penalties (p,).

    They apply to features as they come: logits = features @ weight + bias. Refusal if a penalty does not converge.
    """
    centered = features.to(torch.float64, copy=True)
    mean, size = centered.mean(0), _size(centered)
    centered -= mean
    scale = _size(centered)
    constant = scale <= torch.finfo(torch.float32).eps * size  # up to the rounding of float32
    scale = torch.where(constant, torch.ones_like(scale), scale)
    variance, basis = torch.linalg.eigh(centered.T @ centered / (len(features) * scale**2))
    z = torch.ones(len(features), len(mean) + 1, dtype=torch.float64, device=features.device)
    z[:, :-1] = (centered @ basis).div_(scale)
    del centered
    variance = torch.cat([variance.clamp(min=0), z[0, -1:]])
    solution = _newton(Problem(z, labels, classes), variance, penalties.to(z))
    weight = (basis @ solution[:, :-1]) / scale
    return weight, solution[:, -1] - mean @ weight


def _size(rows: Tensor) -> Tensor:
    """Root of the mean squared norm of rows (n, d)."""
    return (rows**2).sum(1).mean().sqrt()


def classify(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Classes int64 (n,) of features (n, d) by weight (d, classes) and bias (classes,)."""
    return (features.double() @ weight + bias).argmax(1)


class Problem:
    """What is to be fitted: z (n, e), whose last column is the unpenalized constant, and labels (n,)."""

    def __init__(self, z: Tensor, labels: Tensor, classes: int) -> None:
        self.z, self.labels, self.classes = z, labels, classes
        self._rough = z.float()  # a direction need not be exact: twice as fast
        self._last: tuple[Tensor, list[Tensor]] | None = None

    def loss(self, penalty: Tensor, w: Tensor) -> Tensor:
        """Loss (p,) at w (e, p, classes)."""
        total = w.new_zeros(w.shape[1])
        for (_, target), logp in zip(self._rows(w), self._logp(w), strict=True):
            total += (logp * target).sum((0, 2))
        return -total / len(self.z) + _dot(penalty * w, w) / 2

    def slope(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the mean loss (e, p, classes), and mean p (1 - p) (p, classes), at w (e, p, classes)."""
        gradient, spread = torch.zeros_like(w), torch.zeros_like(w[0])
        for (z, target), logp in zip(self._rows(w), self._logp(w), strict=True):
            p = logp.exp()
            gradient += _back(z, p - target)
            spread += (p - p.square()).sum(0)
        return gradient / len(self.z), spread / len(self.z)

    def hessian(self, w: Tensor, going: Tensor, penalty: Tensor) -> Callable[[Tensor], Tensor]:
        """The product H v with v (e, g, classes), at those of w (e, p, classes) that are `going` (p,)."""
        kept = [logp[:, going].exp().float() for logp in self._logp(w)] if self._few(w) else None

        def product(v: Tensor) -> Tensor:
            rough, total = v.float(), torch.zeros_like(v, dtype=torch.float32)
            probabilities = kept or (logp[:, going].exp().float() for logp in self._logp(w))
            for z, p in zip(self._rough.split(self._height(w)), probabilities, strict=True):
                q = p * _forth(z, rough)
                total += _back(z, q - p * q.sum(2, keepdim=True))
            return total / len(self.z) + penalty * v

        return product

    def _logp(self, w: Tensor) -> Iterable[Tensor]:
        """The log-probabilities (b, p, classes) of each block of rows; of the last w they are kept if they are few."""
        if self._last is not None and self._last[0] is w:
            return self._last[1]
        found = (_forth(z, w).log_softmax(2) for z in self.z.split(self._height(w)))
        if not self._few(w):
            return found
        self._last = w, list(found)
        return self._last[1]

    def _rows(self, w: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of z (b, e), and what they should be (b, 1, classes)."""
        height = self._height(w)
        for z, labels in zip(self.z.split(height), self.labels.split(height), strict=True):
            yield z, one_hot(labels, self.classes).to(z)[:, None]

    def _height(self, w: Tensor) -> int:
        return max(1, CELLS // w[0].numel())

    def _few(self, w: Tensor) -> bool:
        return len(self.z) * w[0].numel() <= KEPT


def _newton(problem: Problem, variance: Tensor, penalties: Tensor) -> Tensor:
    """(p, e, classes) that fit the problem; variance (e,) is that of its z."""
    penalty = penalties[None, :, None].repeat(len(variance), 1, 1)
    penalty[-1] = 0
    solution = variance.new_zeros(len(variance), len(penalties), problem.classes)
    todo = torch.arange(len(penalties), device=variance.device)  # the penalties that have not converged
    w = solution.clone()
    loss = problem.loss(penalty, w)
    for _ in range(NEWTON_STEPS):
        gradient, spread = problem.slope(w)
        gradient += penalty * w
        curvature = variance[:, None, None] * spread + penalty
        gap = _dot(gradient, gradient / curvature)
        solution[:, todo] = w
        if (gap <= GAP).all():
            return solution.permute(1, 0, 2)
        going = gap > GAP
        at, todo, w, loss = w, todo[going], w[:, going], loss[going]
        penalty, gradient, curvature = penalty[:, going], gradient[:, going], curvature[:, going]
        direction = _conjugate_gradients(problem.hessian(at, going, penalty), gradient, curvature)
        w, loss = _line_search(problem, penalty, w, loss, direction, _dot(gradient, direction))
    weakest = float(penalties[todo].min())
    raise Refusal(f"the linear probe did not converge at penalty {weakest:g}: raise `penalties.low` in params.yaml")


def _conjugate_gradients(hessian: Callable[[Tensor], Tensor], gradient: Tensor, curvature: Tensor) -> Tensor:
    """The Newton direction of each penalty: -H⁻¹ gradient, to a residual that shrinks with the gradient."""
    direction = torch.zeros_like(gradient)
    residual = -gradient
    step = residual / curvature
    size = _dot(residual, step)
    enough = size * size.clamp(max=0.01)
    for _ in range(CG_STEPS):
        bent = hessian(step)
        length = torch.where(size > enough, size / _dot(step, bent), 0.0)[:, None]
        direction = direction + length * step
        residual = residual - length * bent
        scaled = residual / curvature
        last, size = size, _dot(residual, scaled)
        if (size <= enough).all():
            break
        step = scaled + torch.where(size > enough, size / last, 0.0)[:, None] * step
    return direction


def _line_search(
    problem: Problem, penalty: Tensor, w: Tensor, loss: Tensor, direction: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor]:
    """Halve the step of each penalty until its loss falls enough (Armijo), within rounding."""
    length = torch.ones_like(loss)
    for _ in range(HALVINGS):
        new = w + length[:, None] * direction
        new_loss = problem.loss(penalty, new)
        short = new_loss > loss + 1e-4 * length * slope + 1e-14 * loss
        if not short.any():
            break
        length = torch.where(short, length / 2, length)
    return new, new_loss


def _forth(z: Tensor, w: Tensor) -> Tensor:
    """(n, p, classes) of z (n, e) and w (e, p, classes): one matrix product for all penalties."""
    return (z @ w.flatten(1)).view(-1, *w.shape[1:])


def _back(z: Tensor, r: Tensor) -> Tensor:
    """(e, p, classes) of z (n, e) and r (n, p, classes): the sum over n of their outer products."""
    return (z.T @ r.flatten(1)).view(-1, *r.shape[1:])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product per penalty: (e, p, classes) → (p,)."""
    return (a * b).sum((0, 2))
