import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules.alignment import (
    SmoothingConfig,
    align,
    crop_frame,
    crop_scale,
    ffhq_crop,
    invert,
    natural_crop_size,
    transform_points,
)
from datamodules.types import BadInputError, Landmarks

NO_SMOOTHING = SmoothingConfig(center_sigma=0, shape_sigma=0)


def face(center=(100.0, 80.0), scale=30.0, roll=0.0):
    """68 points whose eyes and mouth lie like a frontal face's, `scale` pixels from eye to eye."""
    points = np.zeros((68, 2))
    points[36:42], points[42:48] = (-0.5, 0), (0.5, 0)
    points[48], points[54] = (-0.4, 1.0), (0.4, 1.0)
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    return scale * points @ turn.T + np.asarray(center)


def landmarks_of(faces):
    points = np.stack([face() * np.nan if f is None else f for f in faces]).astype(np.float32)
    return Landmarks(points, np.array([f is not None for f in faces], np.float32))


def pil_crop(image, points, size):
    """The published recipe as FFHQ states it, drawn by PIL's quad transform."""
    left, right = points[36:42].mean(0), points[42:48].mean(0)
    eyes, mouth = (left + right) / 2, (points[48] + points[54]) / 2
    x = (right - left) - np.flipud(mouth - eyes) * [-1, 1]
    x *= max(np.hypot(*(right - left)) * 2.0, np.hypot(*(mouth - eyes)) * 1.8) / np.hypot(*x)
    y = np.flipud(x) * [-1, 1]
    c = eyes + (mouth - eyes) * 0.1
    quad = np.stack([c - x - y, c - x + y, c + x + y, c + x - y])
    return np.asarray(
        Image.fromarray(image).transform(
            (size, size), Image.Transform.QUAD, (quad + 0.5).flatten(), Image.Resampling.BILINEAR
        )
    )


@settings(max_examples=200)
@given(
    x=st.floats(-4000, 8000),
    y=st.floats(-4000, 8000),
    scale=st.floats(2, 2000),
    roll=st.floats(-np.pi, np.pi),
    size=st.integers(16, 1024),
)
def test_there_and_back_within_a_hundredth_of_a_pixel(x, y, scale, roll, size):
    matrix = ffhq_crop(face((x, y), scale, roll)[None], size)[0]
    corners = np.array([[0, 0], [size - 1, 0], [0, size - 1], [size - 1, size - 1], [size / 2, 3]], float)
    there = transform_points(matrix, corners)
    assert np.abs(transform_points(invert(matrix), there) - corners).max() <= 0.01
    np.testing.assert_allclose(invert(matrix) @ matrix, np.eye(3), atol=1e-6)
    in_frame = there + 0.25
    assert np.abs(transform_points(matrix, transform_points(invert(matrix), in_frame)) - in_frame).max() <= 0.01


def test_crop_is_the_published_one():
    random = np.random.default_rng(0)
    image = cv2.resize(random.integers(0, 255, (12, 16, 3), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    points = face((150.3, 110.7), 24.0, 0.3) + random.normal(0, 1, (68, 2))
    matrix = ffhq_crop(points, 96)
    # 96 px for a crop of about 90: neither shrinks enough to need a prefilter.
    difference = crop_frame(image, matrix, 96).astype(int) - pil_crop(image, points, 96)
    assert np.abs(difference).mean() < 1.0
    shifted = matrix.copy()
    shifted[0, 2] += 0.5
    worse = crop_frame(image, shifted, 96).astype(int) - pil_crop(image, points, 96)
    assert np.abs(worse).mean() > 2 * np.abs(difference).mean()


def test_crop_of_identity_is_the_frame():
    frame = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(crop_frame(frame, np.eye(3), 64), frame)


def test_shrinking_does_not_alias():
    frame = np.zeros((512, 512, 3), np.uint8)
    frame[::2] = 255
    matrix = np.diag([7.3, 7.3, 1.0])
    crop = crop_frame(frame, matrix, 64)[4:-4, 4:-4].astype(float)
    assert abs(crop.mean() - 127.5) < 3 and crop.std() < 12
    assert cv2.warpAffine(frame, matrix[:2], (64, 64), flags=cv2.WARP_INVERSE_MAP).std() > 40


def test_shrinking_keeps_pixel_centres():
    ramp = np.broadcast_to(np.linspace(0, 255, 512)[None, :, None], (512, 512, 3)).astype(np.uint8)
    matrix = np.array([[3.7, 0, 20.0], [0, 3.7, 30.0], [0, 0, 1]])
    crop = crop_frame(np.ascontiguousarray(ramp), matrix, 100)
    np.testing.assert_allclose(crop[50, :, 0], (np.arange(100) * 3.7 + 20) * 255 / 511, atol=1.5)


def test_outside_of_the_frame_is_mirrored():
    frame = np.random.default_rng(2).integers(0, 255, (32, 32, 3), np.uint8)
    crop = crop_frame(frame, np.array([[1.0, 0, -8], [0, 1, 0], [0, 0, 1]]), 32)
    np.testing.assert_array_equal(crop[:, :8], frame[:, 8:0:-1])


def test_natural_size_is_the_crop_in_frame_pixels():
    alignment = align(landmarks_of([face(scale=30), None, face(scale=60)]), 256, NO_SMOOTHING)
    assert natural_crop_size(alignment) == 240  # twice the half side of 2 × eye to eye
    np.testing.assert_allclose(crop_scale(alignment.crop_to_frame) * 256, [120, 120, 240], rtol=1e-5)


def test_holds_without_a_face_and_never_across_a_cut():
    here, there, far = face((50, 50)), face((100, 90)), face((200, 50))
    faces = [None, here, None, there, None, None, far, None]
    matrix = align(landmarks_of(faces), 64, NO_SMOOTHING, cuts=[5]).crop_to_frame
    expected = ffhq_crop(np.stack([here, here, here, there, there, far, far, far]), 64)
    np.testing.assert_allclose(matrix, expected, atol=1e-4)
    # The second shot shows no face at all: it holds the shot before.
    alignment = align(landmarks_of([here, None, None]), 64, NO_SMOOTHING, cuts=[1])
    np.testing.assert_allclose(alignment.crop_to_frame, ffhq_crop(np.stack([here] * 3), 64), atol=1e-4)
    assert alignment.valid.tolist() == [True, False, False]


def test_smoothing_steadies_within_a_shot_and_stops_at_cuts_and_losses():
    random = np.random.default_rng(3)
    shots = [[face((100, 100)) + random.normal(0, 2, (1, 2)) for _ in range(20)] for _ in range(3)]
    moved = [f + 300 for f in shots[1]]
    faces = [*shots[0], *moved, None, *shots[2]]
    smooth = align(landmarks_of(faces), 64, SmoothingConfig(3, 3), cuts=[20]).crop_to_frame
    rough = align(landmarks_of(faces), 64, NO_SMOOTHING, cuts=[20]).crop_to_frame
    alone = align(landmarks_of(moved), 64, SmoothingConfig(3, 3)).crop_to_frame
    np.testing.assert_allclose(smooth[20:40], alone, atol=1e-4)
    assert np.abs(smooth[:20, 0, 2].mean() - rough[:20, 0, 2].mean()) < 0.5
    assert np.diff(smooth[:20, 0, 2]).std() < 0.3 * np.diff(rough[:20, 0, 2]).std()
    assert smooth[39, 0, 2] - smooth[41, 0, 2] > 290
    still = align(landmarks_of([face()] * 7), 64, SmoothingConfig(3, 3)).crop_to_frame
    np.testing.assert_allclose(still, ffhq_crop(np.stack([face()] * 7), 64), atol=1e-4)


def test_refuses_what_cannot_be_aligned():
    with pytest.raises(BadInputError, match="no face"):
        align(landmarks_of([None, None]), 64, NO_SMOOTHING)
    with pytest.raises(ValueError, match="68"):
        ffhq_crop(np.zeros((1, 5, 2)), 64)
    with pytest.raises(ValueError, match="finite"):
        crop_frame(np.zeros((8, 8, 3), np.uint8), np.full((3, 3), np.nan), 8)
    with pytest.raises(ValueError, match="sigma"):
        SmoothingConfig(-1, float("nan"))
