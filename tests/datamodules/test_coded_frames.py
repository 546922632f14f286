from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datamodules.coded_frames import CodedFrames
from datamodules.rows import Rows


def made(folder: Path, frames: int = 5) -> tuple[Rows[np.float32], Rows[np.uint8]]:
    codes, crops = Rows(folder / "codes", (2, 3), np.float32), Rows(folder / "crops", (4, 4, 3), np.uint8)
    for frame in range(frames):
        codes.append(np.full((1, 2, 3), frame, np.float32))
        crops.append(np.full((1, 4, 4, 3), 10 * frame, np.uint8))
    return codes, crops


def test_code_and_crop_are_of_one_frame_and_each_frame_comes_once_a_turn(tmp_path: Path) -> None:
    codes, crops = made(tmp_path)
    seen = []
    for batch in CodedFrames(codes, crops, 2, 5, seed=3):
        assert batch["ws"].shape == (2, 2, 3) and batch["images"].shape == (2, 3, 4, 4)
        frames = batch["ws"][:, 0, 0]
        assert batch["images"][:, 0, 0, 0].tolist() == pytest.approx((frames * 10 / 127.5 - 1).tolist())
        seen += frames.int().tolist()
    assert sorted(seen[:5]) == sorted(seen[5:]) == [0, 1, 2, 3, 4]
    assert seen[:5] != seen[5:]


def test_a_resumed_run_gets_the_batches_it_would_have_had(tmp_path: Path) -> None:
    codes, crops = made(tmp_path)
    whole = [batch["ws"] for batch in CodedFrames(codes, crops, 2, 6, seed=1)]
    rest = [batch["ws"] for batch in CodedFrames(codes, crops, 2, 6, seed=1, first_step=4)]
    assert len(rest) == 2 and all(a.equal(b) for a, b in zip(whole[4:], rest, strict=True))
    assert not whole[0].equal(next(iter(CodedFrames(codes, crops, 2, 6, seed=2)))["ws"])


def test_codes_without_crops_are_refused(tmp_path: Path) -> None:
    codes, crops = made(tmp_path)
    codes.append(np.zeros((1, 2, 3), np.float32))
    with pytest.raises(ValueError, match="6 codes need as many crops, there are 5"):
        CodedFrames(codes, crops, 1, 1, 0)
