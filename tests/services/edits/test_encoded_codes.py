"""Codes of real frames: of the split that was asked for, and known by their frames and their encoder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.clips import Prepared, PreparedClip
from services.edits import encoded_codes
from services.edits.encoded_codes import codes_for_units, encoded_frames, training_codes, unseen_codes

ROWS, WIDTH = 3, 4


def test_codes_are_of_the_split_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [PreparedClip(f"{k}", f"{k}", f"{k}", 9, person, split) for k, (person, split) in enumerate(
        [(0, "train"), (1, "test"), (2, "val"), (-1, "train")]
    )]  # fmt: skip
    asked: list[Any] = []

    def frames(prepared: Prepared, per_clip: int, split: str) -> SimpleNamespace:
        asked.append((per_clip, split))
        pixels = np.full((2, 8, 8, 3), 255, np.uint8)
        return SimpleNamespace(pixels=pixels, clips=("a", "a"), people=(0, 0), data_hash=f"{split} {per_clip}")

    def encoder(images: torch.Tensor) -> tuple[torch.Tensor, None]:
        return images.mean((1, 2, 3))[:, None, None].expand(-1, ROWS, WIDTH), None

    weights = {"weights_sha256": "one"}
    monkeypatch.setattr(encoded_codes, "load_frame_encoder", lambda folder, sha: encoder)
    monkeypatch.setattr(encoded_codes, "load_model", lambda folder: SimpleNamespace(**weights))
    monkeypatch.setattr(encoded_codes, "held_out_frames", frames)
    monkeypatch.setattr(encoded_codes, "read_prepared", lambda folder: Prepared(folder, tuple(clips), ()))
    torch.testing.assert_close(training_codes(tmp_path, tmp_path, 3, "a"), torch.ones(2, ROWS, WIDTH))
    assert asked == [(3, "train")]
    torch.testing.assert_close(unseen_codes(tmp_path, tmp_path, 2, "a"), torch.ones(2, ROWS, WIDTH))
    assert asked[1:] == [(2, "val")]
    held_out = encoded_frames(tmp_path, tmp_path, 3, "a", "test")
    assert held_out is not None and asked[2:] == [(3, "test")] and held_out.clips == ("a", "a")
    weights["weights_sha256"] = "another"
    other = encoded_frames(tmp_path, tmp_path, 3, "a", "test")
    assert other is not None and other.data_hash != held_out.data_hash
    assert len(training_codes(tmp_path, tmp_path, 0, "a")) == 0
    clips[:] = clips[1:]
    assert len(training_codes(tmp_path, tmp_path, 3, "a")) == 0


def test_units_are_set_on_as_many_unseen_codes_as_seen_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    unseen, seen, none = torch.zeros(3, 4, 8), torch.ones(40, 4, 8), torch.empty(0)

    def found(first: torch.Tensor, second: torch.Tensor, count: int) -> torch.Tensor:
        monkeypatch.setattr(encoded_codes, "unseen_codes", lambda *given: first)
        monkeypatch.setattr(encoded_codes, "training_codes", lambda *given: second)
        return codes_for_units(Path("encoder"), Path("clips"), 4, "a", count)

    both = found(unseen, seen, 6)
    assert len(both) == 6 and both.mean() == 0.5
    assert len(found(unseen, seen, 10)) == 8, "no code twice"
    assert found(none, seen, 6).shape == (6, 4, 8)
    assert found(unseen, none, 6).shape == unseen.shape
    assert not len(found(none, none, 6)) and not len(found(unseen, seen, 0))
