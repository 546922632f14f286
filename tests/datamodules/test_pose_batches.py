"""Batches of the pose editor: which frames are a third of a second apart, and a step has one batch."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.pose_batches import FramePairs, KeptSamples, Movements, PoseBatches, frame_pairs
from datamodules.shards import Shard, encode_jpeg, save_shard
from datamodules.types import BadInputError

SIDE = 16


def test_pairs_are_a_third_of_a_second_apart_and_of_one_shot() -> None:
    frame = np.array([0, 1, 2, 3, 4, 10, 11, 12, 13, 14], np.int64)
    shot = np.array([0] * 8 + [1] * 2, np.int32)
    ten = frame_pairs(np.arange(30), np.zeros(30, np.int32), Fraction(30000, 1001), 1 / 3)
    assert (ten[:, 1] - ten[:, 0] == 10).all() and len(ten) == 20
    found = frame_pairs(frame, shot, Fraction(6), 1 / 3)
    assert found.tolist() == [[0, 2], [1, 3], [2, 4], [5, 7]]
    assert frame_pairs(frame, shot, Fraction(1), 1 / 3).tolist()[0] == [0, 1]
    assert frame_pairs(frame[:1], shot[:1], Fraction(25), 1 / 3).shape == (0, 2)
    with pytest.raises(ValueError, match="above 0"):
        frame_pairs(frame, shot, Fraction(0), 1 / 3)


def test_a_movement_lies_within_its_bounds_and_has_a_part() -> None:
    movements = Movements(torch.eye(3), [(-1, 2), (0, 5), (-3, 0)], 0.3)
    drawn = torch.stack([movements.draw(np.random.default_rng(seed)) for seed in range(300)])
    assert (drawn >= torch.tensor([-1.0, 0, -3])).all() and (drawn <= torch.tensor([2.0, 5, 0])).all()
    parts = (drawn != 0).sum(1)
    assert parts.min() == 1 and parts.max() == 3
    assert 0.2 < float((drawn[:, 0] != 0).float().mean()) < 0.8


def batches(tmp_path: Path, first_step: int = 0, pairs: int = 2) -> PoseBatches:
    pictures = np.stack([np.full((SIDE, SIDE, 3), 10 * i, np.uint8) for i in range(6)])
    path = tmp_path / "clip.safetensors"
    if not path.exists():
        save_shard(path, {"frame": np.arange(6)}, [encode_jpeg(picture, 95) for picture in pictures], {})
    rows = np.array([[0, 3], [1, 4]], np.int64)
    clip = FramePairs(Shard(path, "again"), rows, torch.arange(8.0).view(2, 4), np.array([1.0, 3.0]))
    kept = KeptSamples(torch.arange(6.0)[:, None, None].expand(6, 2, 3), pictures)
    return PoseBatches([clip], [kept], Movements(torch.eye(4), [(-1, 1)] * 4, 0.5), pairs, 3, 5, 7, first_step)


def test_a_batch_holds_what_belongs_together(tmp_path: Path) -> None:
    for batch in batches(tmp_path):
        assert batch["frames"].shape == batch["targets"].shape == (2, 3, SIDE, SIDE)
        number = ((batch["frames"].mean((1, 2, 3)) + 1) * 12.75).round()
        assert torch.equal(((batch["targets"].mean((1, 2, 3)) + 1) * 12.75).round(), number + 3)
        torch.testing.assert_close(batch["change"][:, 0], 4 * number)
        shown = ((batch["images"].mean((1, 2, 3)) + 1) * 12.75).round()
        assert torch.equal(shown, batch["ws"][:, 0, 0])
        assert batch["asked"].shape == (3, 4) and (batch["asked"].abs().sum(1) > 0).all()


def test_a_resumed_run_gets_the_batches_it_would_have_had(tmp_path: Path) -> None:
    whole = list(batches(tmp_path))
    rest = list(batches(tmp_path, first_step=3))
    assert len(whole) == 5 and len(rest) == 2
    for a, b in zip(whole[3:], rest, strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(whole[0]["asked"], whole[1]["asked"])


def test_without_pairs_there_are_codes_alone_and_nothing_to_draw_is_one_line(tmp_path: Path) -> None:
    assert set(batches(tmp_path, pairs=0).batch(0)) == {"ws", "images", "asked"}
    kept = KeptSamples(torch.zeros(0, 2, 3), np.zeros((0, SIDE, SIDE, 3), np.uint8))
    with pytest.raises(BadInputError, match="dvc repro") as refusal:
        PoseBatches([], [kept], Movements(torch.eye(4), [(-1, 1)] * 4, 0.5), 0, 3, 5, 7)
    assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match="as many pictures"):
        KeptSamples(torch.zeros(2, 2, 3), np.zeros((1, SIDE, SIDE, 3), np.uint8))
