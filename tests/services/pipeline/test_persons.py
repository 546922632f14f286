from __future__ import annotations

from itertools import islice

import cv2
import numpy as np
import pytest
import torch

from datamodules.alignment import SmoothingConfig
from datamodules.shards import to_tensor
from datamodules.types import Frames
from datamodules.video import read_frames
from modules.assets import asset_path
from modules.perception.identity import load_identity
from services.pipeline.faces import Tracker, track
from services.pipeline.options import PipelineConfig
from services.pipeline.persons import PersonSampler
from services.settings import load_params

SIDE, CHUNK = 256, 8


@pytest.fixture(scope="module")
def two_persons(finder) -> tuple[Frames, Frames]:
    """Twelve frames of each of two clips, cut so that their faces lie in the same place."""
    return tuple(_centred(finder, *name) for name in (("franck", "franck.mp4"), ("clips", "single_face.mp4")))


def _centred(finder, asset: str, file: str) -> Frames:
    frames = next(islice(read_frames(asset_path(asset, file), 12), 1)).frames
    (first,) = finder.find(frames[:1])
    box = first[0].box
    x, y, half = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2, 0.9 * box.side
    scale = SIDE / (2 * half)
    matrix = np.array([[scale, 0, SIDE / 2 - scale * x], [0, scale, SIDE / 2 - scale * y]])
    return np.stack([cv2.warpAffine(frame, matrix, (SIDE, SIDE)) for frame in frames])


def followed(finder, frames: Frames) -> tuple[Tracker, int]:
    """What is followed in frames that come in batches, and how many faces somebody had to look at."""
    params, net, looked = load_params(), load_identity(), 0
    config = params.section("pipeline", PipelineConfig)

    def embed(crops: np.ndarray) -> np.ndarray:
        nonlocal looked
        looked += len(crops)
        with torch.no_grad():
            return net.embed(to_tensor(crops)).numpy()

    smoothing = params.section("smoothing", SmoothingConfig)
    sampler = PersonSampler(embed, config.crop_size, smoothing, config.faces.same_person)
    found, persons = [], []
    for start in range(0, len(frames), CHUNK):
        batch = frames[start : start + CHUNK]
        found += finder.find(batch)
        persons += sampler.look(batch, found[start:])
    return track(found, (), config.faces, persons), looked


def test_persons_who_take_turns_in_one_place_are_two_faces(finder, two_persons) -> None:
    anna, bert = two_persons
    tracker, looked = followed(finder, np.concatenate([anna, bert]))
    assert tracker.changes("all") == (12,)
    lanes = sorted((lane.valid.tolist() for lane in tracker.choose("all")), reverse=True)
    assert lanes == [[True] * 12 + [False] * 12, [False] * 12 + [True] * 12]
    assert looked == 3 + CHUNK - 1  # the last of each batch, and all of the one in which somebody else came


def test_one_person_stays_one_face_and_is_looked_at_once_a_batch(finder, two_persons) -> None:
    anna, _ = two_persons
    tracker, looked = followed(finder, np.concatenate([anna, anna[::-1]]))
    assert tracker.changes("all") == () and looked == 3
    (lane,) = tracker.choose("all")
    assert lane.valid.all()
