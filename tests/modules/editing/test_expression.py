"""Named expressions: asking for one moves its quantity by what was asked and leaves the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.editing.expression import QUANTITIES, fit_expressions, quantities
from modules.perception.face_shape import FaceBasis, FaceParameters
from modules.perception.landmarks import brows_up, mouth_open, smile

# A flat face looking ahead: what the quantities are measured between, in pixels.
PLACES = {
    10: (0, -90), 2: (0, 20),
    33: (-45, -30), 133: (-15, -30), 263: (45, -30), 362: (15, -30),
    160: (-35, -34), 144: (-35, -26), 159: (-30, -35), 145: (-30, -25), 158: (-25, -34), 153: (-25, -26),
    387: (35, -34), 373: (35, -26), 386: (30, -35), 374: (30, -25), 385: (25, -34), 380: (25, -26),
    61: (-25, 45), 291: (25, 45), 13: (0, 44), 14: (0, 56),
    234: (-70, 0), 454: (70, 0), 127: (-70, -20), 356: (70, -20),
    70: (-50, -48), 63: (-45, -50), 105: (-35, -52), 66: (-25, -50), 55: (-15, -48),
    285: (15, -48), 296: (25, -50), 334: (35, -52), 293: (45, -50), 300: (50, -48),
}  # fmt: skip
BROWS = (70, 63, 105, 66, 55, 285, 296, 334, 293, 300)
LIDS = (160, 159, 158, 387, 386, 385)


def face() -> Tensor:
    points = torch.zeros(468, 3)
    for number, place in PLACES.items():
        points[number, :2] = torch.tensor(place, dtype=torch.float32)
    return points


def moved(numbers: tuple[int, ...], down: float) -> Tensor:
    """``(468, 3)``: these points go down by so much."""
    change = torch.zeros(468, 3)
    change[list(numbers), 1] = down
    return change


def basis() -> FaceBasis:
    """Components that open the mouth, lift its corners, open the eyes, lift the brows, and some of each."""
    parts = [moved((14,), 6.0), moved((61, 291), -5.0), moved(LIDS, -2.0), moved(BROWS, -4.0)]
    parts.append(moved((14,), 3.0) + moved((61, 291), 2.0) + moved(BROWS, -2.0))
    return FaceBasis(face(), torch.zeros(0, 468, 3), torch.stack(parts), torch.zeros(6, 468, 3), torch.ones(468))


def test_quantities_are_those_of_a_face_one_can_draw() -> None:
    still = face()[None]
    assert float(mouth_open(still)) == pytest.approx(12 / 60)
    assert float(brows_up(still)) == pytest.approx((49.6 - 30) / 60)
    up = still + moved(BROWS, -6.0)
    assert float(brows_up(up) - brows_up(still)) == pytest.approx(0.1)
    assert float(smile(still + moved((61, 291), -6.0)) - smile(still)) == pytest.approx(0.1)
    # A jaw that drops opens the mouth, and is no smile.
    opened = still + moved((14,), 12.0)
    assert float(smile(opened)) == pytest.approx(float(smile(still)))


def test_what_is_asked_of_one_quantity_moves_it_and_no_other() -> None:
    model = basis()
    random = torch.Generator().manual_seed(0)
    count = 120
    expression = 0.3 * torch.randn(count, 5, generator=random)
    people = torch.arange(count) // 30
    neutral = FaceParameters(
        torch.zeros(count, 0), expression, torch.eye(3).expand(count, 3, 3), torch.zeros(count, 3)
    )
    points = model.points(neutral)
    found = fit_expressions(model, points, people, 1e-6)
    assert found.shape == (len(QUANTITIES), 5)
    start = points[:1]
    for number in range(len(QUANTITIES)):
        change = torch.cat([0.05 * found[number], torch.zeros(6)])[None]
        got = quantities(model.moved(start, change)) - quantities(start)
        expected = torch.zeros(1, 4)
        expected[0, number] = 0.05
        torch.testing.assert_close(got, expected, atol=0.006, rtol=0)
