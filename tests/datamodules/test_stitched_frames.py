from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datamodules.rows import Rows
from datamodules.stitched_frames import StitchedFrames, StitchedRows


def made(folder: Path, frames: int = 5) -> StitchedRows:
    rows = StitchedRows(
        Rows(folder / "codes", (2, 3), np.float32),
        Rows(folder / "offsets", (2, 3), np.float32),
        Rows(folder / "crops", (4, 4, 3), np.uint8),
        Rows(folder / "edited", (4, 4, 3), np.uint8),
        Rows(folder / "masks", (4, 4), np.uint8),
    )
    for frame in range(frames):
        rows.codes.append(np.full((1, 2, 3), frame, np.float32))
        rows.offsets.append(np.full((1, 2, 3), -frame, np.float32))
        rows.crops.append(np.full((1, 4, 4, 3), 10 * frame, np.uint8))
        rows.edited.append(np.full((1, 4, 4, 3), 20 * frame, np.uint8))
        rows.masks.append(np.full((1, 4, 4), 51 * frame, np.uint8))
    return rows


def test_all_of_a_row_is_of_one_frame(tmp_path: Path) -> None:
    for batch in StitchedFrames(made(tmp_path), 2, 5, seed=3):
        assert batch["masks"].shape == (2, 1, 4, 4) and batch["edited"].shape == batch["images"].shape
        frames = batch["ws"][:, 0, 0]
        assert batch["offsets"][:, 0, 0].tolist() == (-frames).tolist()
        assert batch["images"][:, 0, 0, 0].tolist() == pytest.approx((frames * 10 / 127.5 - 1).tolist())
        assert batch["edited"][:, 0, 0, 0].tolist() == pytest.approx((frames * 20 / 127.5 - 1).tolist())
        assert batch["masks"][:, 0, 0, 0].tolist() == pytest.approx((frames / 5).tolist())


def test_files_of_another_length_are_refused(tmp_path: Path) -> None:
    rows = made(tmp_path)
    rows.masks.cut(4)
    with pytest.raises(ValueError, match="5, 5, 5, 5, 4 rows"):
        StitchedFrames(rows, 2, 5, seed=3)
