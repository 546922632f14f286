"""Landmarks blended along a clip: what goes on, what begins anew, and how little is kept."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.alignment import align
from datamodules.landmark_flow import LandmarkFlowConfig, blend, carry, grey_frame
from datamodules.shots import ShotDetector
from datamodules.types import Alignment
from datamodules.video import read_frames
from modules.assets import asset_path
from modules.perception.detection import FaceBox, FaceObservation
from services.pipeline.carried import CarriedLandmarks
from services.pipeline.faces import FacesConfig, track
from services.pipeline.options import EditOptions
from services.pipeline.plan import plan_clip

FACES = FacesConfig(overlap=0.3, same_person=0.5, gap=2, shortest=2, hold=3, fade=4)
FLOW = LandmarkFlowConfig(long_side=640, window=21, levels=3, weight=0.5, tolerance=0.0025, reset=0.1)
ANNA, BERT = np.eye(2, dtype=np.float32)
RANDOM = np.random.default_rng(0)
NOISE = RANDOM.normal(0, 1.5, (40, 68, 2)).astype(np.float32)
"""What detection is off by in each frame."""


def picture(x: float, y: float, seed: int = 0) -> np.ndarray:
    """A textured frame ``(160, 200, 3)``, moved by (x, y)."""
    rough = np.random.default_rng(seed).normal(size=(160, 200)).astype(np.float32)
    smooth = cv2.GaussianBlur(rough, (0, 0), 2.0)
    grey = np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    moved = cv2.warpAffine(
        grey, np.array([[1, 0, x], [0, 1, y]], np.float64), (200, 160), borderMode=cv2.BORDER_WRAP
    )
    return np.repeat(moved[..., None], 3, axis=2)


def seen(x: float, y: float, frame: int, left: float = 60.0) -> FaceObservation:
    """A face of 60 px between the eyes that moves along, found with that frame's noise."""
    points = np.random.default_rng(2).uniform(0, 80, (68, 2))
    points[36:42], points[42:48] = (10, 30), (70, 30)
    landmarks = (points + np.array([left + x, 40 + y])).astype(np.float32) + NOISE[frame]
    box = FaceBox(left + x, 40 + y, left + 80 + x, 120 + y, 0.9, np.zeros((5, 2), np.float32))
    return FaceObservation(box, landmarks, np.zeros((0, 3), np.float32), 0.9)


def assert_as_found(faces: Sequence[FaceObservation], found: Sequence[FaceObservation]) -> None:
    for one, other in zip(faces, found, strict=True):
        np.testing.assert_array_equal(one.landmarks, other.landmarks)


def assert_blended(faces: Sequence[FaceObservation], found: Sequence[FaceObservation]) -> None:
    for one, other in zip(faces, found, strict=True):
        assert (one.landmarks != other.landmarks).any()


def test_detections_that_tremble_come_nearer_to_the_truth() -> None:
    carried, raw, blended = CarriedLandmarks(FLOW, FACES), [], []
    for index in range(30):
        x, y = 6 * np.sin(index / 5), 0.4 * index
        found = seen(x, y, index)
        truth = found.landmarks - NOISE[index]
        (face,) = carried.follow(picture(x, y), [found])
        raw.append(found.landmarks - truth)
        blended.append(face.landmarks - truth)
    assert np.std(blended[5:]) < 0.8 * np.std(raw[5:])


def test_the_result_is_the_blend_of_what_was_carried_from_the_blended_frame_before() -> None:
    carried = CarriedLandmarks(FLOW, FACES)
    expected = seen(0, 0, 0).landmarks
    for index in range(4):
        (face,) = carried.follow(picture(index, 0), [seen(index, 0, index)])
        if index:
            pair = (grey_frame(picture(at, 0), FLOW.long_side) for at in (index - 1, index))
            expected = blend(seen(index, 0, index).landmarks, *carry(*pair, expected, FLOW), FLOW)
        np.testing.assert_array_equal(face.landmarks, expected)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["goes on", "cut", "lost", "jump", "other"]), min_size=2, max_size=12))
def test_cuts_losses_jumps_and_other_persons_begin_anew(events: list[str]) -> None:
    """A face goes on exactly where the frame before had it, in the same shot, near by, the same person."""
    carried, x, aside, who, here = CarriedLandmarks(FLOW, FACES), 0.0, 0.0, 0, False
    for index, event in enumerate(events):
        x += 1.0
        # The face is found elsewhere from here on, and the picture says that it did not move there.
        aside = 15.0 - aside if event == "jump" else aside
        who = 1 - who if event == "other" else who
        found = [] if event == "lost" else [seen(x + aside, 0, index)]
        faces = carried.follow(picture(x, 0), found, [(ANNA, BERT)[who]] * len(found), event == "cut")
        if event == "goes on" and here:
            assert_blended(faces, found)
        else:
            assert_as_found(faces, found)
        here = event != "lost"


def test_the_frame_after_a_loss_is_as_found() -> None:
    carried = CarriedLandmarks(FLOW, FACES)
    carried.follow(picture(0, 0), [seen(0, 0, 0)])
    carried.follow(picture(0, 0), [])
    assert_as_found(carried.follow(picture(0, 0), [seen(0, 0, 1)]), [seen(0, 0, 1)])


def test_a_person_who_was_seen_once_is_known_until_another_comes() -> None:
    carried, still = CarriedLandmarks(FLOW, FACES), picture(0, 0)
    carried.follow(still, [seen(0, 0, 0)], [ANNA])
    assert_blended(carried.follow(still, [seen(0, 0, 1)], [None]), [seen(0, 0, 1)])
    assert_as_found(carried.follow(still, [seen(0, 0, 2)], [BERT]), [seen(0, 0, 2)])
    assert_blended(carried.follow(still, [seen(0, 0, 3)], [BERT]), [seen(0, 0, 3)])


def test_faces_are_told_apart_in_any_order() -> None:
    carried, still = CarriedLandmarks(FLOW, FACES), picture(0, 0)
    left, right = (lambda at: seen(0, 0, at, left=10)), (lambda at: seen(0, 0, at, left=105))
    carried.follow(still, [left(0), right(0)])
    swapped = carried.follow(still, [right(1), left(1)])
    alone = CarriedLandmarks(FLOW, FACES)
    alone.follow(still, [left(0)])
    np.testing.assert_array_equal(swapped[1].landmarks, alone.follow(still, [left(1)])[0].landmarks)
    assert_blended(swapped, [right(1), left(1)])


def test_another_size_begins_anew() -> None:
    carried = CarriedLandmarks(FLOW, FACES)
    carried.follow(picture(0, 0), [seen(0, 0, 0)])
    smaller = np.ascontiguousarray(picture(0, 0)[:-20])
    assert_as_found(carried.follow(smaller, [seen(0, 0, 1)]), [seen(0, 0, 1)])


def test_no_more_than_the_frame_before_is_kept() -> None:
    carried, greys, landmarks = CarriedLandmarks(FLOW, FACES), [], []
    for index in range(8):
        (face,) = carried.follow(picture(0, 0), [seen(0, 0, index)])
        assert carried._before is not None
        greys.append(weakref.ref(carried._before.image))
        landmarks.append(weakref.ref(face.landmarks))
        del face
    gc.collect()
    for kept in (greys, landmarks):
        assert [held() is not None for held in kept] == [False] * 7 + [True]


def planned_without_flow(clip, models, options: EditOptions) -> Alignment:
    """The plan's crops, put together from its parts by hand: detect, follow, smooth."""
    found, shots = [], ShotDetector(models.shots)
    for batch in read_frames(clip, 5, options.start, options.end):
        found += models.judges.find(batch.frames)
        shots.feed(batch.frames)
    landmarks = track(found, shots.cuts, models.config.faces).choose("largest")[0]
    return align(landmarks, models.config.crop_size, models.smoothing, shots.cuts)


def test_a_plan_without_weight_is_detection_alone_and_with_it_another(toy_models, clip) -> None:
    options = EditOptions(start=0.5, end=0.9)
    plain = planned_without_flow(clip, toy_models, options)
    plans = [
        plan_clip(clip, replace(toy_models, landmark_flow=replace(FLOW, weight=weight)), options)
        .faces[0]
        .alignment
        for weight in (0.0, 0.5)
    ]
    np.testing.assert_array_equal(plans[0].crop_to_frame, plain.crop_to_frame)
    np.testing.assert_array_equal(plans[0].valid, plain.valid)
    assert (plans[1].crop_to_frame != plain.crop_to_frame).any()
    moved = np.abs(plans[1].crop_to_frame[:, :2, 2] - plain.crop_to_frame[:, :2, 2]).max()
    assert moved < 0.02 * plain.size * plain.crop_to_frame[0, 0, 0]


def test_chunks_do_not_matter_to_a_plan_and_a_cut_ends_what_is_carried(toy_models, monkeypatch) -> None:
    told: list[bool] = []
    follow = CarriedLandmarks.follow

    def listening(self, frame, found, persons=(), new_shot=False):
        told.append(new_shot)
        return follow(self, frame, found, persons, new_shot)

    monkeypatch.setattr(CarriedLandmarks, "follow", listening)
    clip, options = asset_path("clips", "face_noface.mov"), EditOptions(start=2.2, end=2.6)
    plans = []
    for chunk in (1, 5):
        config = replace(toy_models.config, chunk=chunk)
        told.clear()
        plans.append(plan_clip(clip, replace(toy_models, config=config, landmark_flow=FLOW), options))
        assert set(plans[-1].cuts) <= {index for index, new in enumerate(told) if new}
        assert plans[-1].cuts
    one, five = (plan.faces[0].alignment.crop_to_frame for plan in plans)
    np.testing.assert_array_equal(one, five)
