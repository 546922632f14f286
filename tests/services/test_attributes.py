"""Edges across the nose against OpenCV's, expressions against their net, gradients, and the second judge."""

import cv2
import numpy as np
import pytest
import torch
from real_faces import calm_and_grinning

from modules.perception.emotion import EMOTIONS, load_emotion_net
from modules.perception.mesh import load_face_mesh
from modules.perception.second_judges import SecondJudges
from services.attributes import NAMES, SecondAttributeJudge, as_frames, bridge_edges, load_attribute_judge


def by_opencv(pixels: np.ndarray) -> float:
    grey = cv2.cvtColor(pixels[96:160, 64:192], cv2.COLOR_RGB2GRAY).astype(np.float32)
    edges = np.abs(cv2.Sobel(cv2.GaussianBlur(grey, (0, 0), 1.2), cv2.CV_32F, 0, 1, ksize=3)) / 8
    return float(np.log(max(edges[10:44, 54:74].max(axis=0).mean(), 0.1)))


def frames(count: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (count, 256, 256, 3), dtype=np.uint8)
    return np.stack([cv2.GaussianBlur(frame, (0, 0), 1 + k) for k, frame in enumerate(noise)])


def test_edges_are_those_of_opencv() -> None:
    pixels = frames(4)
    pixels[3] = 128  # nothing there: the least strength
    found = bridge_edges(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy()
    np.testing.assert_allclose(found, [by_opencv(frame) for frame in pixels], atol=0.02)
    assert found[3] == pytest.approx(np.log(0.1))


def test_the_judge_is_differentiable_and_says_the_same_as_numbers() -> None:
    judge = load_attribute_judge(0.0)
    images = (torch.from_numpy(frames(1)).permute(0, 3, 1, 2).float() / 127.5 - 1).requires_grad_()
    found = judge.measure(images)
    told = judge(images.detach())
    assert set(found) == set(told) == set(NAMES)
    for name, value in found.items():
        np.testing.assert_allclose(value.detach().numpy(), told[name], rtol=1e-5)
    for name in set(NAMES) - {"gender"}:  # its log odds stand still where they are certain
        (slope,) = torch.autograd.grad(found[name].sum(), images, retain_graph=True)
        assert slope.isfinite().all() and slope.abs().max() > 0, name


def test_surprise_and_anger_are_the_expression_nets_log_odds() -> None:
    images = torch.from_numpy(frames(3)).permute(0, 3, 1, 2).float() / 127.5 - 1
    told = load_attribute_judge(0.0)(images)
    with torch.no_grad():
        scores = load_emotion_net()(images).double().softmax(1)
    for name, emotion in (("surprise", "surprised"), ("anger", "angry")):
        expected = torch.logit(scores[:, EMOTIONS.index(emotion)])
        np.testing.assert_allclose(told[name], expected, rtol=1e-3, atol=1e-3)


def test_the_second_judge_agrees_with_the_first_on_a_person_and_sees_none_in_noise() -> None:
    mesh, noise = load_face_mesh(), torch.from_numpy(frames(1)).permute(0, 3, 1, 2).float() / 127.5 - 1
    images = torch.cat([calm_and_grinning(), noise])
    first, second = load_attribute_judge(0.5)(images), SecondAttributeJudge(SecondJudges(), mesh, 0.5)(images)
    assert set(second) == {"age", "yaw", "pitch", "roll", "gender"}
    for name, value in second.items():
        assert np.isnan(value).tolist() == [False, False, True], name
    for name, apart in (("age", 10), ("yaw", 12), ("roll", 6)):
        assert np.nanmax(np.abs(first[name] - second[name])) < apart, name


def test_frames_are_the_images_and_boxes_hold_the_mesh() -> None:
    images, points = calm_and_grinning(), torch.zeros(2, 468, 3)
    points[:, 0, :2], points[:, 1, :2] = torch.tensor([90.0, 80.0]), torch.tensor([30.0, 200.0])
    points[:, 2:, :2] = 85.0
    pixels, boxes = as_frames(images, points)
    assert boxes.tolist() == [[30, 80, 90, 200]] * 2 and pixels.shape == (2, 256, 256, 3)
    np.testing.assert_allclose(pixels.transpose(0, 3, 1, 2) / 127.5 - 1, images.numpy(), atol=1e-6)
