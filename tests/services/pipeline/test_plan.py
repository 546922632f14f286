"""The plan of a preview: what is counted in frames spans the same time where one frame in a few is taken."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from datamodules.alignment import crop_scale, transform_points
from datamodules.types import Alignment
from modules.perception.detection import FaceBox, FaceObservation
from services.pipeline.options import EditOptions
from services.pipeline.plan import per_taken_frame, plan_clip

PREVIEW = EditOptions(preview=True)


def test_what_is_counted_in_frames_is_divided_and_never_nothing(toy_models) -> None:
    faces, smoothing = toy_models.config.faces, toy_models.smoothing
    assert per_taken_frame(1, faces, smoothing) == (faces, smoothing)
    faces = replace(faces, gap=10, hold=15, fade=20, shortest=10)
    taken, steadied = per_taken_frame(5, faces, smoothing)
    assert taken == replace(faces, gap=2, hold=3, fade=4, shortest=2)
    assert (steadied.center_sigma, steadied.shape_sigma) == (smoothing.center_sigma / 5, smoothing.shape_sigma / 5)
    taken, _ = per_taken_frame(100, faces, smoothing)
    assert (taken.gap, taken.hold, taken.fade, taken.shortest) == (0, 0, 1, 1)


def test_a_preview_finds_a_face_of_ten_frames_and_holds_it_as_long(toy_models, clip) -> None:
    every = toy_models.config.preview.every
    toy_models.judges.visible = 10 // every
    plan = plan_clip(clip, toy_models, PREVIEW)
    toy_models.judges.visible, toy_models.judges.looked = 10, 0
    whole = plan_clip(clip, toy_models, EditOptions())
    assert plan.numbers == whole.numbers[::every]
    expected = whole.faces[0].presence.state[::every]
    states = plan.faces[0].presence.state
    assert states[:4] == expected[:4] == ("face", "face", "held", "faded")
    assert states[5:] == expected[5:] == ("none",) * (len(states) - 5)


def nodding(every: int) -> Callable[[np.ndarray], list[list[FaceObservation]]]:
    """Finds, in one frame of ``every``, a face that comes nearer and leans over and over again."""
    numbers = itertools.count(0, every)

    def seen(number: int) -> FaceObservation:
        turn = 0.3 * np.cos(2 * np.pi * number / 36)  # at rest where the clip begins and ends
        lean = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        points = np.zeros((68, 2))
        points[36:42], points[42:48], points[48], points[54] = (-0.5, 0), (0.5, 0), (-0.4, 1.0), (0.4, 1.0)
        points = 40 * (1 + turn) * points @ lean.T + 150
        box = FaceBox(100.0, 120.0, 200.0, 220.0, 0.9, np.zeros((5, 2), np.float32))
        return FaceObservation(box, points.astype(np.float32), np.zeros((0, 3), np.float32), 0.9)

    return lambda frames: [[seen(next(numbers))] for _ in frames]


def test_crops_of_a_preview_are_those_of_the_clip(toy_models, clip) -> None:
    faces = replace(toy_models.config.faces, same_person=-1.0)
    models = replace(
        toy_models,
        config=replace(toy_models.config, faces=faces),
        landmark_flow=replace(toy_models.landmark_flow, weight=0.0),
    )

    def crops(options: EditOptions, every: int) -> Alignment:
        models.judges.find = nodding(every)
        return plan_clip(clip, models, options).faces[0].alignment

    every = models.config.preview.every
    whole, taken = crops(EditOptions(), 1), crops(PREVIEW, every).crop_to_frame
    expected = whole.crop_to_frame[::every]
    edge = whole.size - 0.5
    corners = np.array([[-0.5, -0.5], [edge, -0.5], [edge, edge], [-0.5, edge]])
    off = np.linalg.norm(transform_points(taken, corners) - transform_points(expected, corners), axis=-1)
    share = off.max(axis=1) / (crop_scale(expected) * whole.size)
    assert share.max() < 0.02
