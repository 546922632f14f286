"""Faces in real frames: found at every size, rotation and place, and followed."""

from dataclasses import replace

import av
import cv2
import numpy as np
import pytest
import torch

from datamodules.types import BadInputError
from modules.assets import asset_path
from modules.perception.detection import (
    DetectionConfig,
    FaceBox,
    FaceTracker,
    load_face_finder,
    to_landmarks,
)

CONFIG = DetectionConfig(
    long_side=640,
    largest_side=1920,
    min_score=0.6,
    overlap=0.3,
    min_face=8,
    mesh_score=0.5,
    batch=16,
    follow_overlap=0.2,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finder():
    return load_face_finder(CONFIG)


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return np.ascontiguousarray(cv2.imread(str(asset_path("clips", "single_face.jpg")))[..., ::-1])


@pytest.fixture(scope="module")
def group() -> np.ndarray:
    return np.ascontiguousarray(cv2.imread(str(asset_path("clips", "multi_face.jpg")))[..., ::-1])


def eye_distance(points: np.ndarray) -> float:
    return float(np.linalg.norm(points[36:42].mean(0) - points[42:48].mean(0)))


def test_points_agree_with_the_detectors_own(finder, portrait, group):
    faces = [*finder.find(portrait[None])[0], *finder.find(group[None])[0]]
    assert len(faces) == 6
    for face in faces:
        mine = np.stack([face.landmarks[36:42].mean(0), face.landmarks[42:48].mean(0), face.landmarks[30]])
        apart = np.linalg.norm(mine - face.box.points[:3], axis=1) / eye_distance(face.landmarks)
        assert apart.max() < 0.25
        assert face.mesh.shape == (468, 3) and face.landmarks.shape == (68, 2) and face.score > 0.9


def test_group_is_five_faces_largest_first(finder, group):
    sides = [face.box.side for face in finder.find(group[None])[0]]
    assert len(sides) == 5 and sides == sorted(sides, reverse=True)


@pytest.mark.parametrize("angle", [-40, 25])
def test_a_turned_picture_turns_the_points(finder, portrait, angle):
    height, width = portrait.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 0.8)
    straight, turned = finder.find(np.stack([portrait, cv2.warpAffine(portrait, turn, (width, height))]))
    expected = straight[0].landmarks @ turn[:, :2].T + turn[:, 2]
    error = np.linalg.norm(turned[0].landmarks - expected, axis=1).mean() / eye_distance(expected)
    assert error < 0.05


@pytest.mark.parametrize("scale", [0.08, 0.3, 3.0])
def test_faces_of_other_sizes(finder, portrait, scale):
    """From 20 px to 4K; a face of 8 % of its size leaves the mesh little to see."""
    straight = finder.find(portrait[None])[0][0]
    size = tuple(round(n * scale) for n in portrait.shape[1::-1])
    resized = cv2.resize(portrait, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas = np.full((max(size[1], 200), max(size[0], 200), 3), 127, np.uint8)
    canvas[: size[1], : size[0]] = resized
    found = finder.find(canvas[None])[0]
    assert len(found) == 1
    expected = (straight.landmarks + 0.5) * np.array(size) / portrait.shape[1::-1] - 0.5
    error = np.linalg.norm(found[0].landmarks - expected, axis=1).mean() / eye_distance(expected)
    assert error < (0.15 if scale < 0.1 else 0.04)


def test_sixteen_pixel_face_in_8k_and_small_frames(finder, portrait):
    face = portrait[120:420, 150:450]
    small = np.full((120, 160, 3), 100, np.uint8)
    small[50:72, 60:82] = cv2.resize(face, (22, 22), interpolation=cv2.INTER_AREA)
    boxes = finder.detector.detect(small)
    assert len(boxes) == 1 and 8 < boxes[0].side < 25
    wide = np.full((4320, 7680, 3), 100, np.uint8)
    wide[1000:3000, 3000:5000] = cv2.resize(portrait, (2000, 2000))
    assert len(finder.detector.detect(wide)) == 1


def test_no_face_is_an_empty_list(finder):
    with av.open(str(asset_path("clips", "no_face.mp4"))) as clip:
        frames = np.stack(
            [f.to_ndarray(format="rgb24") for _, f in zip(range(2), clip.decode(video=0), strict=False)]
        )
    assert finder.find(frames) == [[], []]
    landmarks = to_landmarks([None, None])
    assert not landmarks.valid.any() and np.isnan(landmarks.points).all()


def test_tracker_stays_with_the_face_it_was_given(finder, group):
    """Sizes that change place must not swap faces: the frame is squeezed so that another becomes the largest."""
    tracker = FaceTracker(finder, pick=2)
    chosen = finder.find(group[None])[0][2]
    followed = tracker.follow(np.stack([group, np.roll(group, 5, axis=1)])) + tracker.follow(group[None])
    landmarks = to_landmarks(followed)
    assert landmarks.valid.all()
    middle = landmarks.points.mean(1)
    assert np.abs(middle[0] - chosen.landmarks.mean(0)).max() < 1e-3
    assert np.abs(middle[1] - middle[0] - [5, 0]).max() < 3
    assert np.abs(middle[2] - middle[0]).max() < 3


def test_tracker_says_when_the_face_is_gone(finder, portrait):
    gone = np.full_like(portrait, 90)
    tracker = FaceTracker(finder)
    followed = tracker.follow(np.stack([portrait, gone, portrait]))
    assert [face is not None for face in followed] == [True, False, True]


def test_overlap_of_boxes():
    points = np.zeros((5, 2), np.float32)
    box = FaceBox(0, 0, 10, 10, 1.0, points)
    assert box.overlap(box) == pytest.approx(1)
    assert box.overlap(FaceBox(5, 0, 15, 10, 1.0, points)) == pytest.approx(1 / 3)
    assert box.overlap(FaceBox(20, 20, 30, 30, 1.0, points)) == 0


def test_boxes_below_the_least_size_are_dropped(portrait):
    assert load_face_finder(replace(CONFIG, min_face=400)).detector.detect(portrait) == []


@pytest.mark.parametrize("frame", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_other_arrays_are_refused(finder, frame):
    with pytest.raises(BadInputError, match="uint8 RGB"):
        finder.detector.detect(frame)


def test_a_batch_of_no_faces_is_refused():
    with pytest.raises(ValueError, match="batch must be 1 or more, got 0"):
        replace(CONFIG, batch=0)
