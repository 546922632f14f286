"""What is told of pasted edits, on frames of which it is known what comes through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pipeline_toys import NUM_WS, W_DIM, ToyJudges
from torch import Tensor

from modules.editing.balance import BalanceConfig
from modules.editing.directions import EditRequest, EditSet
from modules.perception.parsing import Regions
from services.balancing import Balancing, Unit
from services.evaluation import pasting
from services.evaluation.pasting import RENDERED, SLACK, WAYS, Pasted, beyond_both, markdown, measure_pasting
from services.pipeline.crops import EditedCrop, edit_crops
from services.pipeline.models import Models

OLDER = EditRequest("age", 5.0)


class Brightness(ToyJudges):
    """Sees an age in how bright the middle is: a year is a step of 255."""

    def attributes(self, images: Tensor) -> dict[str, np.ndarray]:  # type: ignore[override]
        middle = images[:, :, 96:160, 96:160].mean((1, 2, 3))
        return {"age": (127.5 * middle).numpy()}

    def second_identity(self, images: Tensor) -> Tensor:  # type: ignore[override]
        return F.adaptive_avg_pool2d(images, 2).flatten(1)


@pytest.fixture
def models(toy_models: Models) -> Models:
    """A generator that draws grey, brighter by a step per unit of one number of the codes."""

    class Grey(type(toy_models.generator)):  # type: ignore[misc]
        def synthesize(self, ws: Tensor, resolution: int = 256, **how: object) -> Tensor:
            return (ws[:, 1, 2] / 127.5)[:, None, None, None].expand(-1, 3, resolution, resolution)

    judges = Brightness(toy_models.judges.detection, "alex", "cpu")
    return replace(toy_models, generator=Grey(), judges=judges)


def test_each_way_says_what_its_pictures_show(models: Models) -> None:
    """The frames are 20 steps brighter than their codes, and the edit is of light alone."""
    frames = np.full((3, 256, 256, 3), 127 + 20, np.uint8) + np.arange(3, dtype=np.uint8)[:, None, None, None]
    rng = np.random.default_rng(0)
    frames[:, ::2] += rng.integers(0, 3, frames[:, ::2].shape, np.uint8)
    ws = torch.zeros(3, NUM_WS, W_DIM)
    rows = {row.way: row for row in measure_pasting(frames, ("a", "a", "b"), ws, [OLDER], models, {"age": 1.0})}
    assert list(rows) == [RENDERED, *WAYS]
    assert rows[RENDERED].got == pytest.approx(1.0, abs=0.2)  # pictures are of whole steps
    assert rows["difference"].got == pytest.approx(1.0, abs=0.02) and rows["difference"].spread < 0.02
    assert rows["mixed"].got == rows["difference"].got, "nothing moved"
    assert abs(rows["replace"].got) < 0.1, "the seam takes out what is the same all over"
    assert rows["difference"].detail == pytest.approx(1.0, abs=0.02) and rows["replace"].detail < 0.3
    assert all(row.beyond == 0 and row.seen == 2 for row in rows.values()), "one of each clip"
    assert len(markdown(list(rows.values()))) == 2 + len(rows)


def test_rendered_is_what_the_generator_draws_and_nothing_else(models: Models) -> None:
    """An edit of light alone that is not for colours: nothing of it is pasted, all of it is rendered."""
    edits = EditSet(replace(edit, recolours=False) for edit in models.edits.values())
    frames = np.full((2, 256, 256, 3), 140, np.uint8) + np.arange(2, dtype=np.uint8)[:, None, None, None]
    frames[:, ::2] += 3
    ws = torch.zeros(2, NUM_WS, W_DIM)
    kept = replace(models, edits=edits)
    rows = {row.way: row for row in measure_pasting(frames, ("a", "b"), ws, [OLDER], kept, {"age": 1.0})}
    assert rows[RENDERED].got == pytest.approx(1.0, abs=0.2)
    assert all(abs(rows[way].got) < 0.1 for way in WAYS)


def test_a_frame_no_part_of_which_is_surely_a_face_says_nothing_of_its_face(models: Models) -> None:
    class Unsure(type(models.judges)):  # type: ignore[misc]
        def regions(self, images: Tensor) -> Regions:
            sure = torch.where(images.mean((1, 2, 3), keepdim=True) > 0, 1.0, 0.5)
            return Regions(*(mask * sure for mask in super().regions(images)))

    judges = Unsure(models.judges.detection, "alex", "cpu")
    frames = np.stack([np.full((256, 256, 3), level, np.uint8) for level in (100, 180)])
    frames[:, ::2] += 3
    unsure = replace(models, judges=judges)

    def measured(chosen: np.ndarray) -> Pasted:
        ws, clips = torch.zeros(len(chosen), NUM_WS, W_DIM), ("a",) * len(chosen)
        return next(measure_pasting(chosen, clips, ws, [OLDER], unsure, {"age": 1.0}))

    of_both, of_none = measured(frames[[0, 0, 1]]), measured(frames[:1])
    assert np.isfinite(of_both.detail) and np.isfinite(of_both.beyond)
    assert np.isnan(of_none.detail) and np.isnan(of_none.beyond) and of_none.seen == 1


def test_edits_are_balanced_on_other_frames_than_those_that_are_measured(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told apart by their codes: of a clip of three the first is looked at, of a clip of one its own."""
    balancing = Balancing(BalanceConfig(frames=2, rounds=0, rate=0.8, most=0.5), {"age": Unit(1.0, 20.0)})
    looked_at, measured = list[list[float]](), list[float]()

    def balanced(ws: Tensor, requests: object, *others: object) -> object:
        looked_at.append(ws[:, 0, 0].tolist())
        return requests

    def made(ws: Tensor, *others: object) -> Iterator[EditedCrop]:
        measured.extend(ws[:, 0, 0].tolist())
        return edit_crops(ws, *others)

    monkeypatch.setattr(pasting, "balanced", balanced)
    monkeypatch.setattr(pasting, "edit_crops", made)
    frames, ws = np.full((4, 256, 256, 3), 140, np.uint8), torch.zeros(4, NUM_WS, W_DIM)
    frames[:, ::2] += 3
    ws[:, 0, 0] = torch.arange(4.0)
    some = replace(models, balancing=balancing)
    list(measure_pasting(frames, ("a", "b", "a", "a"), ws, [OLDER], some, {"age": 1.0}, ways=["mixed"]))
    assert looked_at == [[0], [1]] * 2, "as it is pasted, and as it is rendered"
    assert sorted(measured) == [1, 2, 3]


def test_what_lies_beyond_both_counts_from_where_it_is_seen() -> None:
    frame, edit = np.full((4, 4, 3), 100, np.uint8), np.full((4, 4, 3), 140, np.uint8)
    for level, wanted in ((90, 10 - SLACK), (95, 0), (120, 0), (140 + int(SLACK), 0), (160, 20 - SLACK)):
        np.testing.assert_array_equal(beyond_both(np.full((4, 4, 3), level, np.uint8), frame, edit), wanted)
        np.testing.assert_array_equal(beyond_both(np.full((4, 4, 3), level, np.uint8), edit, frame), wanted)


def test_what_does_not_belong_together_is_refused(models: Models) -> None:
    frames = np.zeros((2, 256, 256, 3), np.uint8)
    with pytest.raises(ValueError, match="2 crops, 1 clips' names and 2 codes"):
        next(measure_pasting(frames, ("a",), torch.zeros(2, NUM_WS, W_DIM), [OLDER], models, {"age": 1.0}))
