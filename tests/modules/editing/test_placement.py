"""Moves of the head in the picture: closed forms, and what the mesh sees of them on made faces."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules.types import BadInputError
from modules.assets import asset_path
from modules.editing.directions import Direction, EditRequest, EditSet
from modules.editing.placement import (
    DOWN,
    NAMES,
    NEARER,
    PIVOT,
    RIGHT,
    ROLL,
    Placement,
    PlacementConfig,
    PlacementSettings,
    placements,
)
from modules.generators.mobile import MobileStyleGAN
from modules.ops import move_image
from modules.perception.detection import DetectionConfig, load_face_finder
from services.settings import load_params

CONFIG = PlacementConfig({name: PlacementSettings("steps", -20, 20) for name in NAMES})
EDITS = placements(CONFIG, "g")
PAD = ((0, 0), (64, 64), (64, 64), (0, 0))
"""Around a crop, so that a face is found in it as in a frame."""


def sent(strengths: dict[str, float], point: tuple[float, float]) -> list[float]:
    """Where a point of the picture goes."""
    transform = EDITS.transform([EditRequest(*item) for item in strengths.items()])
    assert transform is not None
    return (transform @ torch.tensor([*point, 1.0], dtype=torch.float64))[:2].tolist()


def test_each_move_is_what_its_name_says() -> None:
    assert sent({RIGHT: 5}, (0.1, 0.2)) == pytest.approx([0.15, 0.2])
    assert sent({DOWN: -5}, (0.1, 0.2)) == pytest.approx([0.1, 0.15])
    x, y = PIVOT
    assert sent({NEARER: 10}, (x + 0.1, y - 0.2)) == pytest.approx([x + 0.11, y - 0.22])
    up = sent({ROLL: 20}, (x, y - 0.5))  # the top of the head leans to the right: clockwise
    assert up == pytest.approx([x + 0.5 * math.sin(math.radians(20)), y - 0.5 * math.cos(math.radians(20))])


@given(roll=st.floats(-20, 20), size=st.floats(-20, 20))
def test_where_a_head_leans_and_grows_its_chin_stays(roll: float, size: float) -> None:
    if roll or size:
        assert sent({ROLL: roll, NEARER: size}, PIVOT) == pytest.approx(PIVOT, abs=1e-9)


@given(st.sampled_from(NAMES), st.sampled_from(NAMES), st.floats(1, 20), st.floats(-20, -1))
def test_moves_follow_one_another_in_the_order_they_are_asked(a: str, b: str, one: float, other: float) -> None:
    both = EDITS.transform([EditRequest(a, one), EditRequest(b, other)])
    torch.testing.assert_close(both, EDITS[b].transform(other) @ EDITS[a].transform(one))


def test_what_moves_nothing_has_no_transform() -> None:
    still = Direction("age", "years", torch.zeros(2, 3), -9, 9, "g")
    edits = EditSet([*EDITS.values(), still])
    assert edits.transform([EditRequest(ROLL, 0.0), EditRequest("age", 3.0)]) is None
    ws = torch.randn(1, 2, 3)
    torch.testing.assert_close(edits.apply(ws, [EditRequest(ROLL, 5.0)]), ws, rtol=0, atol=0)
    assert EDITS[ROLL].whole_head and EDITS[ROLL].replaces and not EDITS[ROLL].recolours


@pytest.mark.parametrize("strength", [20.1, -21, math.nan, math.inf])
def test_a_strength_out_of_bounds_is_refused(strength: float) -> None:
    with pytest.raises(BadInputError, match=r"pose\.roll"):
        EDITS.check([EditRequest(ROLL, strength)])
    with pytest.raises(BadInputError, match=r"pose\.roll"):
        EDITS[ROLL].transform(strength)


def test_what_is_no_move_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"no move 'pose.yaw' of the head; there are pose.roll, pose.right"):
        placements(PlacementConfig({"pose.yaw": PlacementSettings("degrees", -1, 1)}), "g")
    with pytest.raises(ValueError, match="enclose 0"):
        Placement(ROLL, "degrees", 1, 2, "g")


@pytest.fixture(scope="module")
def face() -> MobileStyleGAN:
    return MobileStyleGAN.from_openvino(asset_path("random-face", "SynthesisNetwork.xml").parent)


def test_a_finder_of_faces_sees_of_made_ones_what_was_asked(face: MobileStyleGAN) -> None:
    ws = face.map(torch.randn(4, face.z_dim, generator=torch.Generator().manual_seed(5)), 0.6)
    finder = load_face_finder(load_params().section("detection", DetectionConfig))

    def seen(*requests: tuple[str, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How the eyes lie in degrees, where their middle is and how far apart, as shares of the width."""
        with torch.no_grad():
            shown = EDITS.synthesize(face, ws, [EditRequest(*one) for one in requests], resolution=256)
        frames = ((shown.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).round().byte().numpy()
        points = np.stack([faces[0].landmarks[36:48] for faces in finder.find(np.pad(frames, PAD, "edge"))])
        eyes = points.reshape(4, 2, 6, 2).mean(2) / 256
        across = eyes[:, 1] - eyes[:, 0]
        return np.degrees(np.arctan2(across[:, 1], across[:, 0])), eyes.mean(1), np.linalg.norm(across, axis=1)

    angle, middle, apart = seen()
    np.testing.assert_allclose(seen((ROLL, 12.0))[0] - angle, 12.0, atol=1.5)
    np.testing.assert_allclose(seen((RIGHT, 5.0))[1] - middle, [[0.05, 0.0]] * 4, atol=0.01)
    np.testing.assert_allclose(seen((DOWN, -5.0))[1] - middle, [[0.0, -0.05]] * 4, atol=0.01)
    np.testing.assert_allclose(seen((NEARER, 15.0))[2] / apart, 1.15, atol=0.03)


def test_the_picture_is_the_generators_own_moved(face: MobileStyleGAN) -> None:
    ws = face.map(torch.randn(1, face.z_dim, generator=torch.Generator().manual_seed(5)))
    with torch.no_grad():
        moved = EDITS.synthesize(face, ws, [EditRequest(ROLL, 10.0)], resolution=256)
        still = EDITS.synthesize(face, ws, [EditRequest(ROLL, 0.0)], resolution=256)
        torch.testing.assert_close(still, face.synthesize(ws, resolution=256), rtol=0, atol=0)
        torch.testing.assert_close(moved, move_image(still, EDITS[ROLL].transform(10.0)))
