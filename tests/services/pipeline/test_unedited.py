"""What codes show and what crops are parsed into, remembered: made once, forgotten where it must be."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pipeline_toys import ToyIdentity

from datamodules.shards import to_tensor
from modules.editing.directions import EditRequest
from modules.perception.parsing import Regions
from services.pipeline.crops import edit_crops
from services.pipeline.invert import measure
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.unedited import UneditedFaces

SIDE = 32
ONE = 3 * SIDE * SIDE * 4
"""Bytes of a rendering."""


class Counted:
    """A generator, and how many faces it has drawn."""

    def __init__(self, generator) -> None:
        self.generator, self.drawn = generator, 0

    def __getattr__(self, name: str):
        return getattr(self.generator, name)

    def synthesize(self, ws, *args, **options):
        self.drawn += len(ws)
        return self.generator.synthesize(ws, *args, **options)


class BrightParts:
    """Judges whose face is what is bright, and how many pictures they have parsed."""

    parsed = 0

    def regions(self, images: torch.Tensor) -> Regions:
        self.parsed += len(images)
        bright = (images.mean(1, keepdim=True) > 0).float()
        return Regions(bright, bright, 1 - bright)


@pytest.fixture
def counted(toy_models: Models) -> Counted:
    return Counted(toy_models.generator)


@pytest.fixture
def ws(toy_models: Models) -> torch.Tensor:
    made = toy_models.generator
    random = torch.Generator().manual_seed(3)
    return made.w_mean + 0.3 * torch.randn(4, made.num_ws, made.w_dim, generator=random)


def test_each_face_is_drawn_once_and_comes_back_in_its_own_place(counted, ws) -> None:
    remembered = UneditedFaces(math.inf)
    expected = counted.generator.synthesize(ws, resolution=SIDE).clamp(-1, 1)
    torch.testing.assert_close(remembered.shown(ws[:2], SIDE, counted), expected[:2])
    order = [3, 1, 0, 2, 1]
    torch.testing.assert_close(remembered.shown(ws[order], SIDE, counted), expected[order])
    assert counted.drawn == 4
    assert remembered.bytes == 4 * ONE
    assert remembered.shown(ws[:1], 2 * SIDE, counted).shape[-1] == 2 * SIDE  # another size is another picture
    assert counted.drawn == 5


def test_what_is_handed_out_can_be_written_on(counted, ws) -> None:
    remembered = UneditedFaces(math.inf)
    first = remembered.shown(ws[:1], SIDE, counted)
    kept = first.clone()
    first.zero_()
    again = remembered.shown(ws[:1], SIDE, counted)
    assert torch.equal(again, kept)
    again.zero_()
    assert torch.equal(remembered.shown(ws[:1], SIDE, counted), kept)


def test_the_first_faces_are_kept_where_the_memory_is_small(counted, ws) -> None:
    remembered = UneditedFaces(2.5 * ONE)
    for _ in range(3):
        for one in torch.split(ws, 1):
            remembered.shown(one, SIDE, counted)
    assert remembered.bytes == 2 * ONE
    assert counted.drawn == 2 + 3 * 2


def test_nothing_is_remembered_without_memory(counted, ws) -> None:
    forgetful = UneditedFaces(0)
    assert torch.equal(forgetful.shown(ws, SIDE, counted), forgetful.shown(ws, SIDE, counted))
    assert (counted.drawn, forgetful.bytes) == (8, 0)


def test_another_generator_is_asked_anew(counted, ws, toy_models: Models) -> None:
    other = Counted(toy_models.generator)
    remembered = UneditedFaces(math.inf)
    for generator in (counted, other, counted):
        remembered.shown(ws, SIDE, generator)
    assert (counted.drawn, other.drawn) == (8, 4)
    assert remembered.bytes == 4 * ONE


def test_regions_belong_to_their_crop() -> None:
    asked = []

    def parse(crops: torch.Tensor) -> Regions:
        asked.append(len(crops))
        return Regions(crops[:, :1], crops[:, 1:2], crops[:, 2:])

    crops = torch.rand(3, 3, 8, 8)
    remembered = UneditedFaces(math.inf)
    remembered.regions(crops[1:2], parse)
    found = remembered.regions(crops, parse)
    assert asked == [1, 2]
    assert torch.equal(torch.cat(list(found), 1), crops)


@pytest.mark.parametrize("name", ["age", "yaw"])
def test_an_edit_is_the_same_with_what_was_remembered(toy_models: Models, ws, name) -> None:
    """The second edit of a face draws and parses only what is its own."""
    counted, judges = Counted(toy_models.generator), BrightParts()
    targets = to_tensor(np.random.default_rng(5).integers(0, 256, (4, 64, 64, 3), np.uint8), "cpu")
    afresh = replace(toy_models, generator=counted, judges=judges)
    remembering = replace(afresh, unedited=UneditedFaces(math.inf))

    def crops(models: Models):
        return list(edit_crops(ws, targets, [EditRequest(name, 5.0)], models, EditOptions(), 64))

    expected = crops(afresh)
    crops(remembering)
    drawn, parsed = counted.drawn, judges.parsed
    found = crops(remembering)
    assert counted.drawn - drawn == len(ws)
    # What a turned head shows is its own, and is parsed for each edit.
    assert judges.parsed - parsed == (len(ws) if name == "yaw" else 0)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.reconstruction, other.reconstruction)
        np.testing.assert_array_equal(one.edit, other.edit)
        np.testing.assert_array_equal(one.mask, other.mask)


def test_an_edit_that_does_not_move_the_codes_is_drawn_once(toy_models: Models, ws) -> None:
    """Balancing first looks at the face as the edit will be pasted, but not yet moved."""
    counted = Counted(toy_models.generator)
    targets = torch.zeros(4, 3, 64, 64)
    models = replace(toy_models, generator=counted)
    asked = [EditRequest("age", 5.0)]
    still = list(edit_crops(ws, targets, asked, models, EditOptions(), 64, applied=()))
    assert counted.drawn == len(ws)
    offset = torch.full_like(ws, 0.5)
    moved = list(edit_crops(ws, targets, asked, models, EditOptions(), 64, applied=(), offsets=offset))
    for one, other in zip(still, moved, strict=True):
        assert np.abs(one.edit - other.edit).max() > 0.01


def test_how_near_a_rendering_comes_is_found_once_for_each_pair(toy_models: Models) -> None:
    seen = 0

    class Counts(ToyIdentity):
        def embed(self, images: torch.Tensor) -> torch.Tensor:
            nonlocal seen
            seen += len(images)
            return super().embed(images)

    class Counting(type(toy_models.judges)):
        identity = Counts()

    judges = Counting(toy_models.judges.detection, "alex", "cpu")
    judges.finder = toy_models.judges.finder
    models = replace(toy_models, judges=judges, unedited=UneditedFaces(2**20))
    random = torch.Generator().manual_seed(4)
    crops, shown = (torch.rand(3, 3, 64, 64, generator=random) for _ in range(2))
    first = measure(crops, shown, models)
    assert seen == 6
    again = measure(crops[[1, 0]], shown[[1, 0]], models)
    assert seen == 6
    other = measure(crops[[0, 1]], shown[[1, 1]], models)
    assert seen == 8, "the second pair is known, the first is another one"
    for name, values in first.items():
        np.testing.assert_array_equal(again[name], values[[1, 0]])
        np.testing.assert_array_equal(other[name][1], values[1])
    plain = measure(crops, shown, replace(models, unedited=UneditedFaces(0)))
    assert seen == 14
    for name, values in plain.items():
        np.testing.assert_allclose(values, first[name], rtol=1e-6)
