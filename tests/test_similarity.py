"""Claims: the sum over a similarity matrix in slabs equals the whole one, value and gradient, and holds no matrix."""

import pytest
import torch

from stages.methods import simclr
from stages.networks import similarity


def whole(z: torch.Tensor, temperature: float) -> torch.Tensor:
    return (z @ z.T / temperature).fill_diagonal_(float("-inf")).logsumexp(1)


@pytest.mark.parametrize(("rows", "slab"), [(2, 1), (12, 5 * 12), (12, 12 * 12), (50, 7 * 50), (50, 1)])
def test_slabs_give_the_value_and_gradient_of_the_whole(rows: int, slab: int, monkeypatch) -> None:
    """For slabs that divide the rows or not, down to one row: 1e-12 in float64."""
    monkeypatch.setattr(similarity, "SLAB", slab)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(rows, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(rows, generator=generator, dtype=torch.float64)
    results = []
    for function in (whole, similarity.log_sum_exp_of_others):
        out = function(z, 0.3)
        [gradient] = torch.autograd.grad((weight * out).sum(), z)
        results.append((out, gradient))
    assert torch.allclose(*[out for out, _ in results], rtol=0, atol=1e-12)
    assert torch.allclose(*[gradient for _, gradient in results], rtol=0, atol=1e-12)


def test_the_gradient_passes_gradcheck(monkeypatch) -> None:
    """Against finite differences, with three slabs."""
    monkeypatch.setattr(similarity, "SLAB", 24)
    z = torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: similarity.log_sum_exp_of_others(z, 0.5), z)


def test_a_large_batch_has_the_loss_of_the_plain_form(monkeypatch) -> None:
    """NT-Xent above and below the threshold: 1e-5 relative in float32, loss and gradient."""
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(300, 16, generator=generator, requires_grad=True) for _ in range(2))
    results = []
    for limit in (1000, 10):
        monkeypatch.setattr(simclr, "WHOLE", limit)
        loss = simclr.nt_xent(a, b, 0.1, "paper")
        results.append((loss, *torch.autograd.grad(loss, (a, b))))
    for plain, slabs in zip(*results, strict=True):
        assert (plain - slabs).norm() <= 1e-5 * plain.norm()


def test_no_matrix_is_held() -> None:
    """Between forward and backward only z and one number a row are kept."""
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    z = torch.randn(64, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        similarity.log_sum_exp_of_others(z, 0.5)
    assert sum(kept) == 64 * 8 + 64


def test_slabs_lie_in_one_place(monkeypatch) -> None:
    """Memory of the size of a slab is taken once: taken anew for each it would pile up in the heap."""
    monkeypatch.setattr(similarity, "SLAB", 24)
    places = [slab.data_ptr() for _, slab in similarity._slabs(torch.randn(10, 3), 0.5)]
    assert len(places) == 5
    assert len(set(places)) == 1
