"""The solver of the probes that are linear: multinomial logistic regression for a whole path of penalties.

    minimize over W, b     mean_i -log softmax(W z_i + b)[y_i]  +  λ/2 ‖W‖²           z = (x - mean) / scale

One number scales all features: afterwards their total variance over the training images is 1, so that a penalty λ means
the same for every encoder, whatever the width and the magnitude of its features, and rotating, permuting, repeating or
zero-padding them changes nothing. Nothing is standardized per dimension.

Solver: Newton's method, loss and gradient in float64; each step solves  H p = -g  by conjugate gradients, H in float32,
preconditioned by  diag(variance of z) ⊗ diag(mean p_c (1 - p_c)) + λ  in the basis where the covariance of z is
diagonal; the penalties share every product with z. Deterministic: no start value, order or batch is drawn.
"""

import math
from collections.abc import Callable
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
    features = features.double()
    mean = features.mean(0)
    centered = features - mean
    scale = _scale(features, centered)
    variance, basis = torch.linalg.eigh(centered.T @ centered / (len(features) * scale**2))
    ones = torch.ones_like(centered[:, :1])
    z = torch.cat([centered @ basis / scale, ones], 1)
    variance = torch.cat([variance.clamp(min=0), ones[0]])
    solution = _newton(z, labels, variance, classes, penalties.to(z))
    weight = (basis @ solution[:, :-1]) / scale
    return weight, solution[:, -1] - mean @ weight


def _scale(features: Tensor, centered: Tensor) -> Tensor:
    """Root of the total variance; 1 where the features are constant up to the rounding of float32."""
    scale = centered.square().sum(1).mean().sqrt()
    constant = scale <= torch.finfo(torch.float32).eps * features.square().sum(1).mean().sqrt()
    return torch.where(constant, torch.ones_like(scale), scale)


def classify(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Classes int64 (n,) of features (n, d) by weight (d, classes) and bias (classes,)."""
    return (features.double() @ weight + bias).argmax(1)


def _newton(z: Tensor, labels: Tensor, variance: Tensor, classes: int, penalties: Tensor) -> Tensor:
    """(p, e, classes) that fit z (n, e), whose last column is the unpenalized constant; variance (e,) is that of z."""
    target = one_hot(labels, classes).to(z)[:, None]
    penalty = penalties[None, :, None].repeat(len(variance), 1, 1)
    penalty[-1] = 0
    solution = z.new_zeros(len(variance), len(penalties), classes)
    todo = torch.arange(len(penalties), device=z.device)  # the penalties that have not converged
    w = solution.clone()
    loss, logp = _loss(z, target, penalty, w)
    for _ in range(NEWTON_STEPS):
        p = logp.exp()
        gradient = _back(z, p - target) + penalty * w
        curvature = variance[:, None, None] * (p - p.square()).mean(0) + penalty
        gap = _dot(gradient, gradient / curvature)
        solution[:, todo] = w
        if (gap <= GAP).all():
            return solution.permute(1, 0, 2)
        going = gap > GAP
        todo, w, loss, p = todo[going], w[:, going], loss[going], p[:, going]
        penalty, gradient, curvature = penalty[:, going], gradient[:, going], curvature[:, going]
        direction = _conjugate_gradients(_hessian(z, p, penalty), gradient, curvature)
        w, loss, logp = _line_search(z, target, penalty, w, loss, direction, _dot(gradient, direction))
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
    z: Tensor, target: Tensor, penalty: Tensor, w: Tensor, loss: Tensor, direction: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Halve the step of each penalty until its loss falls enough (Armijo), within rounding."""
    length = torch.ones_like(loss)
    for _ in range(HALVINGS):
        new = w + length[:, None] * direction
        new_loss, logp = _loss(z, target, penalty, new)
        short = new_loss > loss + 1e-4 * length * slope + 1e-14 * loss
        if not short.any():
            break
        length = torch.where(short, length / 2, length)
    return new, new_loss, logp


def _loss(z: Tensor, target: Tensor, penalty: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Loss (p,) and log-probabilities (n, p, classes) at w (e, p, classes)."""
    logp = _forth(z, w).log_softmax(2)
    return -(logp * target).sum((0, 2)) / len(z) + _dot(penalty * w, w) / 2, logp


def _hessian(z: Tensor, p: Tensor, penalty: Tensor) -> Callable[[Tensor], Tensor]:
    """The product H v with v (e, p, classes), at the probabilities p (n, p, classes)."""
    z, p = z.float(), p.float()  # a direction need not be exact: twice as fast

    def product(v: Tensor) -> Tensor:
        q = p * _forth(z, v.float())
        return _back(z, q - p * q.sum(2, keepdim=True)) + penalty * v

    return product


def _forth(z: Tensor, w: Tensor) -> Tensor:
    """(n, p, classes) of z (n, e) and w (e, p, classes): one matrix product for all penalties."""
    return (z @ w.flatten(1)).view(-1, *w.shape[1:])


def _back(z: Tensor, r: Tensor) -> Tensor:
    """(e, p, classes) of z (n, e) and r (n, p, classes): the mean over n of their outer products."""
    return (z.T @ r.flatten(1)).view(-1, *r.shape[1:]) / len(z)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product per penalty: (e, p, classes) → (p,)."""
    return (a * b).sum((0, 2))
