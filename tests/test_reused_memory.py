"""Memory that is used again: only once everything that looks at it is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import rnnscope as rs
from rnnscope._layers import tensors
from rnnscope._layers.tensors import fresh, reused_memory

SHAPE = (3, 1 << 18)  # of float32, larger than a huge page


def new(rows: int = 3) -> Tensor:
    return fresh((rows, *SHAPE[1:]), torch.empty(0), torch.float32)


LOOKS: list[Callable[[Tensor], object]] = [
    lambda tensor: tensor,
    lambda tensor: tensor[1:, 5],
    lambda tensor: tensor.numpy(),
    lambda tensor: tensor.numpy()[2, ::7],
    lambda tensor: tensor.untyped_storage(),
    lambda tensor: tensor.transpose(0, 1).detach(),
    lambda tensor: memoryview(tensor.numpy()),
    lambda tensor: torch.utils.dlpack.to_dlpack(tensor),
]


@pytest.mark.parametrize("look", LOOKS, ids=range(len(LOOKS)))
def test_what_is_looked_at_is_not_used_again(look: Callable[[Tensor], object]) -> None:
    with reused_memory():
        tensor = new()
        place = tensor.data_ptr()
        held = look(tensor)
        del tensor
        assert new().data_ptr() != place
        del held
        assert new().data_ptr() == place


def test_a_smaller_one_fits_and_a_larger_one_replaces() -> None:
    with reused_memory():
        first, second = new(), new(4)
        places = first.data_ptr(), second.data_ptr()
        del first, second
        small, large = new(2), new(4)
        assert (small.data_ptr(), large.data_ptr()) == places
        del small, large
        pool = tensors._pool.get()
        assert pool is not None
        assert len(pool.blocks) == 2
        kept = new(9)
        assert len(pool.blocks) == 1  # what was too small is let go
        assert kept.shape == (9, *SHAPE[1:])
    assert tensors._pool.get() is None


def test_a_trace_that_is_kept_keeps_its_numbers() -> None:
    """Each against the layer's own states, after others were made and dropped."""
    layer = torch.nn.LSTM(8, 64)
    inputs = [torch.randn(100, 100, 8) for _ in range(4)]
    kept = []
    with torch.no_grad(), reused_memory():
        for x in inputs:
            kept.append((rs.trace(layer, x), layer(x)[0].transpose(0, 1)))
            rs.trace(layer, torch.randn(100, 100, 8))
    for tr, h in kept:
        assert torch.equal(tr["h", 0, "forward"], h)
        torch.testing.assert_close(tr["o"] * tr["c"].tanh(), tr["h"], rtol=0, atol=1e-6)


def test_threads_never_share() -> None:
    pool = tensors._Pool()
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(300):
            block = pool.take(64)
            block[:] = number
            if not (block == number).all():
                wrong.append(number)
            del block

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(pool.blocks) <= len(threads)
