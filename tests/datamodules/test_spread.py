"""Frames that are spread over a clip."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.spread import spread
from datamodules.types import BadInputError


@given(st.integers(1, 500), st.integers(1, 60))
def test_spread_is_sorted_unique_and_keeps_the_ends(total: int, count: int) -> None:
    chosen = spread(total, count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(total, count)
    assert chosen[0] == 0
    assert count == 1 or total == 1 or chosen[-1] == total - 1


def test_none_is_refused() -> None:
    with pytest.raises(BadInputError, match="at least one frame"):
        spread(10, 0)
