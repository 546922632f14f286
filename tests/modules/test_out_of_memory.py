"""Batches that do not fit are halved; what is out of memory is told from other errors by real ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.types import BadInputError
from modules.out_of_memory import BatchSize, is_out_of_memory, memory_for

MORE_THAN_THERE_IS = 2**58
"""Numbers: no machine has the memory for them, and none hands it out on trust."""


def error_of(make: object) -> BaseException:
    with pytest.raises((RuntimeError, MemoryError)) as raised:
        make()  # type: ignore[operator]
    return raised.value


def test_what_torch_and_numpy_say_of_too_little_memory_is_known_and_nothing_else() -> None:
    assert is_out_of_memory(error_of(lambda: torch.empty(MORE_THAN_THERE_IS)))
    assert is_out_of_memory(error_of(lambda: np.empty(MORE_THAN_THERE_IS)))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not is_out_of_memory(error_of(lambda: torch.ones(2) @ torch.ones(3)))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator"))


def test_parts_that_do_not_fit_are_done_again_in_halves_in_order_and_said() -> None:
    tried: list[tuple[int, int]] = []

    def work(part: slice) -> list[int]:
        tried.append((part.start, part.stop))
        if part.stop - part.start > 2 and part.stop > 8:
            torch.empty(MORE_THAN_THERE_IS)
        return list(range(part.start, part.stop))

    batch = BatchSize(8, "things at once", "one thing; take a smaller one")
    made = list(batch.over(13, work))
    assert [number for some in made for number in some] == list(range(13))
    # What is left is five: half of that, not of eight.
    assert tried == [(0, 8), (8, 13), (8, 10), (10, 12), (12, 13)]
    assert batch.said == ["out of memory: went on with 2 things at once"] and batch.size == 2


def test_one_that_does_not_fit_is_refused_with_what_to_do() -> None:
    batch = BatchSize(2, "things at once", "one thing; take a smaller one")
    with pytest.raises(BadInputError, match="the memory does not hold one thing; take a smaller one") as refused:
        list(batch.over(3, lambda part: torch.empty(MORE_THAN_THERE_IS)))
    assert refused.value.status == 507 and batch.size == 1
    with pytest.raises(BadInputError, match="does not hold two; take one") as refused, memory_for("two; take one"):
        np.empty(MORE_THAN_THERE_IS)
    assert refused.value.status == 507


def test_other_errors_pass_as_they_are() -> None:
    def wrong(part: slice) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(BatchSize(4, "things", "one").over(4, wrong))
    with pytest.raises(RuntimeError, match="shapes differ"), memory_for("much"):
        wrong(slice(0, 1))
    with pytest.raises(ValueError, match="at least 1"):
        BatchSize(0, "things", "one")
