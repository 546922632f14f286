from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.disk import NotWrittenError
from datamodules.rows import Rows


@given(st.lists(st.integers(0, 5), max_size=6))
def test_what_was_added_is_read_as_one_array(tmp_path_factory: pytest.TempPathFactory, counts: list[int]) -> None:
    rows = Rows(tmp_path_factory.mktemp("rows") / "codes", (2, 3), np.float32)
    random = np.random.default_rng(sum(counts))
    added = [random.standard_normal((count, 2, 3)).astype(np.float32) for count in counts]
    for part in added:
        rows.append(part)
    whole = np.concatenate([np.empty((0, 2, 3), np.float32), *added])
    assert len(rows) == len(whole)
    for first in range(len(whole) + 1):
        np.testing.assert_array_equal(rows.read(first, len(whole)), whole[first:])


def test_a_row_that_was_cut_short_is_not_there_and_is_written_over(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "crops", (4,), np.uint8)
    rows.append(np.arange(8, dtype=np.uint8).reshape(2, 4))
    with rows.path.open("ab") as stream:
        stream.write(b"\xff\xff\xff")
    assert len(rows) == 2
    rows.append(np.full((1, 4), 9, np.uint8))
    assert rows.read(0, 3).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [9, 9, 9, 9]]
    assert rows.path.stat().st_size == 12


def test_rows_that_are_not_there_and_other_shapes_are_refused(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "codes", (2,), np.float32)
    with pytest.raises(IndexError, match="has 0 rows, 0 to 1"):
        rows.read(0, 1)
    with pytest.raises(ValueError, match=r"takes rows \(2,\), got \(3,\)"):
        rows.append(np.zeros((1, 3), np.float32))
    with pytest.raises(NotWrittenError, match="cannot write"):
        Rows(tmp_path / "no" / "folder", (2,), np.float32).append(np.zeros((1, 2), np.float32))
