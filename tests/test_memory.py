"""What is remembered: a unit row for every image of the bank, by index, and a queue."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from stages.networks.memory import Bank, RingQueue


def bank(momentum: float) -> Bank:
    torch.manual_seed(0)
    return Bank(7, torch.arange(7), 4, momentum=momentum)


def embeddings() -> Tensor:
    return normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), dim=1)


def test_a_bank_starts_with_random_unit_rows() -> None:
    """Every row has length 1, another seed gives others, and no component has a sign that is preferred."""
    torch.manual_seed(3)
    rows = Bank(2000, torch.arange(2000), 4, momentum=0.5).rows
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2000))
    assert not torch.equal(rows, Bank(2000, torch.arange(2000), 4, momentum=0.5).rows)
    assert (rows.mean(0).abs() < 0.05).all()


@pytest.mark.parametrize("momentum", [0.0, 0.25, 0.5, 1.0])
def test_the_rows_of_a_batch_move(momentum: float) -> None:
    """V_i becomes m·V_i + (1 − m)·f_i on the sphere for the images of the batch, and no other row changes."""
    memory, f, index = bank(momentum), embeddings(), torch.tensor([5, 0, 2])
    before = memory.rows.clone()
    memory.update(index, f)
    torch.testing.assert_close(memory.rows[index], normalize(momentum * before[index] + (1 - momentum) * f, dim=1))
    others = [1, 3, 4, 6]
    assert torch.equal(memory.rows[others], before[others])
    torch.testing.assert_close(memory.rows.norm(dim=1), torch.ones(7))


def test_a_bank_has_rows_for_its_images_alone() -> None:
    """Images of the data set that are not among them have no place; the others are found by their index."""
    memory, f, index = Bank(9, torch.tensor([1, 4, 5, 8]), 4, momentum=0.0), embeddings(), torch.tensor([8, 1, 5])
    before = memory.rows.clone()
    assert memory.places.tolist() == [-1, 0, -1, -1, 1, 2, -1, -1, 3]
    memory.update(index, f)
    torch.testing.assert_close(memory.rows[[3, 0, 2]], f)
    assert torch.equal(memory.rows[1], before[1])


def test_a_queue_takes_no_more_than_it_holds() -> None:
    """Two rows of one push would go to one place, and which one stays is not defined."""
    with pytest.raises(AssertionError):
        RingQueue(4, 4, step=2).push(torch.eye(4).repeat(2, 1))


def test_a_bank_is_state_without_gradient() -> None:
    """The rows are in the state_dict, are no parameter, and what is stored keeps no graph."""
    memory = bank(0.5)
    memory.update(torch.tensor([0, 1, 2]), embeddings().requires_grad_())
    assert list(memory.state_dict()) == ["rows"]
    assert not list(memory.parameters())
    assert not memory.rows.requires_grad


def test_a_bank_keeps_its_precision() -> None:
    """Embeddings in bf16 are stored in float32."""
    memory = bank(0.0)
    memory.update(torch.tensor([0, 1, 2]), embeddings().bfloat16())
    assert memory.rows.dtype == torch.float32
    torch.testing.assert_close(memory.rows[:3].norm(dim=1), torch.ones(3))
