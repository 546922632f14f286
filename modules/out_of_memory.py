"""Batches that the memory does not hold are halved, and said to be; one thing that it does not hold is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from datamodules.types import BadInputError

log = logging.getLogger("stylereel.memory")

Made = TypeVar("Made")
_TEXTS = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Torch has an error of its own for most of a GPU's memory; a machine's and a library's is known by the text."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the machine or of its GPU is full."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)
    )


@contextmanager
def memory_for(what: str) -> Iterator[None]:
    """Where the memory runs out inside, ``BadInputError`` (507): it does not hold ``what``, and what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise BadInputError(f"the memory does not hold {what}", 507) from error


class BatchSize:
    """How many are computed at once: halved where the memory does not hold as many."""

    def __init__(self, size: int, of: str, one: str) -> None:
        """``of`` is what there are so many of; ``one`` is one of them, and what to do where it is too large."""
        if size < 1:
            raise ValueError(f"a batch has at least 1, got {size}")
        self.size, self._of, self._one = size, of, one
        self.said: list[str] = []
        """One line for each time that it was halved."""

    def halve(self, error: Exception, tried: int) -> None:
        """Half of the ``tried`` that ``error`` came of.

        Raises ``BadInputError`` (507) where that was one, and the error itself where it is of something else.
        """
        if not is_out_of_memory(error):
            raise error
        if tried == 1:
            raise BadInputError(f"the memory does not hold {self._one}", 507) from error
        self.size = min(self.size, tried) // 2
        self.said.append(f"out of memory: went on with {self.size} {self._of}")
        log.warning(self.said[-1])

    def over(self, count: int, work: Callable[[slice], Made]) -> Iterator[Made]:
        """What ``work`` makes of each part of ``count`` in order; a part that was too large is done again as two.

        Raises like ``halve``.
        """
        first = 0
        while first < count:
            part = slice(first, min(first + self.size, count))
            try:
                made = work(part)
            except (RuntimeError, MemoryError) as error:
                self.halve(error, part.stop - first)
                continue
            yield made
            first = part.stop
