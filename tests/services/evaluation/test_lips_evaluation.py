"""What is told of kept lips, on pictures of which it is known, and on real frames with a small real generator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from adapted_toys import DYNAMICS, small_models
from torch import Tensor

from modules.editing.directions import EditRequest
from modules.perception.emotion import EMOTIONS, load_emotion_net
from modules.perception.landmarks import eye_distance, lip_gaps
from modules.perception.second_judges import SecondJudges
from services.attributes import as_frames
from services.evaluation.lips import compared, crops_of, kept_lips
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.plan import plan_clip

__all__ = ["small_models"]
SHORT = EditOptions(start=0.5, end=0.9, keep_lips=True)


@pytest.fixture
def faces(clip: Path, small_models: Models) -> Tensor:
    """Two moments of a real face, ``(2, 3, 256, 256)``."""
    models = replace(small_models, config=replace(small_models.config, crop_size=256))
    return crops_of(clip, plan_clip(clip, models, SHORT), models, SHORT)[[0, 11]]


def test_lips_led_all_the_way_back_leave_nothing_of_the_error_and_of_the_gain(
    faces: Tensor, small_models: Models
) -> None:
    one, other = faces[:1], faces[1:]
    found = compared(one, one, other, one, "happy", small_models)
    assert found.frames == 1 and found.kept == 0 and found.fall == 1 and found.fall_to_clip == 1
    assert found.gain_kept == pytest.approx(0, abs=1e-6) and found.eyes_moved == pytest.approx(1)
    same = compared(one, one, other, other, "happy", small_models)
    assert same.fall == 0 and same.gain_kept == 1 and same.eyes_moved == pytest.approx(0, abs=1e-6)
    assert same.noise > 0


def test_errors_are_gaps_of_the_lips_over_the_distance_of_the_eyes(faces: Tensor, small_models: Models) -> None:
    one, other = faces[:1], faces[1:]
    mesh = small_models.judges.mesh
    points = [mesh(image).points for image in (one, other)]
    gaps = [lip_gaps(each).detach().numpy() for each in points]
    wanted = np.linalg.norm(gaps[1] - gaps[0], axis=-1).sum() / float(eye_distance(points[0]))
    found = compared(other, one, other, one, "surprised", small_models)
    assert found.plain == pytest.approx(wanted, rel=1e-4)
    assert found.plain_to_clip == 0 and found.kept_to_clip == pytest.approx(wanted, rel=1e-4)
    scores = load_emotion_net("cpu")(faces).softmax(1)[:, EMOTIONS.index("surprised")].detach()
    assert found.label == pytest.approx((float(scores[0]), float(scores[1]), float(scores[0])), rel=1e-4)
    seen = as_frames(faces, torch.cat(points))
    other = SecondJudges().expression(*seen)[:, EMOTIONS.index("surprised")]
    assert found.second_label == pytest.approx((other[0], other[1], other[0]), rel=1e-3, abs=1e-6)


def test_a_clip_whose_lips_are_hardly_led_keeps_the_plain_edit(clip: Path, small_models: Models) -> None:
    still = replace(DYNAMICS, learning_rate=1e-9)
    config = replace(small_models.config.keep_lips, dynamics={"mesh": still})
    models = replace(small_models, config=replace(small_models.config, keep_lips=config))
    with torch.no_grad():
        found = kept_lips(clip, EditRequest("smile", 1.0), "happy", models, SHORT)
    assert found.frames == 12
    assert found.fall == pytest.approx(0, abs=1e-3) and found.gain_kept == pytest.approx(1, abs=1e-2)
    assert found.eyes_moved == pytest.approx(0, abs=1e-3)
