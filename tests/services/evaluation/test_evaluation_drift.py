import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from datamodules.types import BadInputError
from services.evaluation.drift import Drift, DriftConfig, forth_and_back, measure_drift
from services.evaluation.frames import HeldOutFrames


class Grey:
    """A code is a grey, and a picture of it."""

    def synthesize(self, ws: torch.Tensor, resolution: int) -> torch.Tensor:
        return interpolate(ws[:, :1, :1, None].expand(-1, 3, -1, -1), resolution)


def exact(frames, state=None):
    return frames.mean((1, 2, 3))[:, None, None], None


def drifting(frames, state=None):
    """One percent further off in every frame."""
    state = 0.0 if state is None else state
    return frames.mean((1, 2, 3))[:, None, None] + 0.01 * (state + 1), state + 1


def clip(name: str, length: int) -> HeldOutFrames:
    pixels = np.stack([np.full((256, 256, 3), 100 + k, np.uint8) for k in range(length)])
    return HeldOutFrames(pixels, (name,) * length, (0,) * length, "hash")


def test_a_short_clip_is_played_forth_and_back() -> None:
    assert forth_and_back(3, 9) == [0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert forth_and_back(5, 4) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="played back"):
        forth_and_back(1, 4)


def test_an_error_that_grows_is_told_frame_by_frame() -> None:
    clips = [clip("short", 3), clip("long", 6), clip("middle", 4)]
    encoders = {"FrEN": exact, "ViEN": drifting}
    drift = measure_drift(clips, encoders, Grey(), DriftConfig(frames=10, every=5, clips=2))  # type: ignore[arg-type]
    assert drift.frames == (4, 9) and drift.clips == ("long", "middle")
    expected = [10 * np.log10(4 / (0.01 * step) ** 2) for step in (5, 10)]
    np.testing.assert_allclose(drift.curves["ViEN"], [expected] * 2, atol=0.01)
    assert (drift.curves["FrEN"] > 80).all()
    rows = drift.to_csv().splitlines()
    assert rows[0] == "frame,FrEN,ViEN" and rows[2].startswith("9,")
    assert float(rows[2].split(",")[2]) == pytest.approx(expected[1], abs=0.01)


def test_each_frame_is_compared_with_itself() -> None:
    """The stream turns back at the clip's end, and so must what it is measured against."""
    shown = []

    def watching(frames, state=None):
        shown.append(round(float((frames.mean() + 1) * 127.5)))
        return exact(frames)

    measure_drift([clip("a", 3)], {"one": watching}, Grey(), DriftConfig(6, 3, 1))  # type: ignore[arg-type]
    assert shown == [100, 101, 102, 101, 100, 101]


def test_the_slope_is_per_hundred_frames() -> None:
    curve = np.array([[20.0, 19.0, 18.0], [22.0, 21.0, 20.0]])
    drift = Drift((0, 50, 100), {"ViEN": curve}, ("a", "b"))
    assert drift.slope("ViEN") == pytest.approx(-2.0)


@pytest.mark.parametrize("numbers", [(8, 20, 1), (10, 0, 1), (10, 5, 0)])
def test_numbers_that_no_line_goes_through_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(BadInputError, match="a line needs two points"):
        DriftConfig(*numbers)
