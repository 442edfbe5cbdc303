"""InfoNCE against a queue: what MoCo and PCL have in common."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stages.networks.precision import full_precision


@full_precision
def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Equation 1 of MoCo: mean of −log exp(q·k/τ) / (exp(q·k/τ) + Σ_r exp(q·r/τ)), for q, k (n, d), r of (K, d).

    All are brought to the sphere; keys and queue get no gradient.
    """
    q, k, queue = normalize(q, dim=1), normalize(k.detach(), dim=1), normalize(queue.detach(), dim=1)
    positives = (q * k).sum(1) / temperature
    negatives = (q @ queue.T / temperature).logsumexp(1)
    return (torch.logaddexp(positives, negatives) - positives).mean()
