"""Eqs. 3 to 7 of StylePortraitVideo in a world where the lips are a linear function of the codes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from modules.editing.expression_dynamics import (
    DynamicsConfig,
    Eyes,
    Found,
    Mouth,
    point_distance,
    regularity,
    unsteadiness,
    window_offsets,
    windows,
)
from modules.losses.perceptual import PerceptualLoss, load_lpips
from modules.out_of_memory import BatchSize

ROWS, WIDTH, SIDE = 3, 4, 96
CONFIG = DynamicsConfig(150, 0.05, 6, 2, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1024)
random = torch.Generator().manual_seed(3)
BASIS = torch.randn(ROWS * WIDTH, 3 * SIDE * SIDE, generator=random) * 0.05
LIPS = torch.randn(3 * SIDE * SIDE, 6, generator=random) * 0.02
CORNERS = torch.randn(3 * SIDE * SIDE, 4, generator=random) * 0.02
ODDS = torch.randn(3 * SIDE * SIDE, 1, generator=random) * 0.02


@pytest.fixture(scope="module")
def perceptual() -> PerceptualLoss:
    return load_lpips("alex")


@pytest.fixture(scope="module")
def eyes(perceptual: PerceptualLoss) -> Eyes:
    return Eyes(perceptual, (0.25, 0.25, 0.75, 0.75))


def show(ws: Tensor) -> Tensor:
    return (ws.flatten(1) @ BASIS).view(-1, 3, SIDE, SIDE)


def lips(images: Tensor) -> Tensor:
    return (images.flatten(1) @ LIPS).view(-1, 3, 2)


def mouth(images: Tensor) -> Mouth:
    return Mouth(lips(images), (images.flatten(1) @ CORNERS).view(-1, 2, 2))


def edited(frames: int = 5) -> Tensor:
    return torch.randn(frames, ROWS, WIDTH, generator=torch.Generator().manual_seed(frames))


def batches(size: int = 1) -> BatchSize:
    return BatchSize(size, "frames at once", "one")


def found(
    config: DynamicsConfig, eyes: Eyes, wanted: Tensor, ws: Tensor, batch: BatchSize | None = None, **more: Any
) -> Found:
    def render(frames: slice, moved: Tensor) -> Tensor:
        return show(ws[frames] + moved)

    given = {"render": render, "mouth": mouth, "batch": batch or batches(), **more}
    return window_offsets(torch.zeros_like(ws), wanted=wanted, eyes=eyes, config=config, **given)


def offsets(config: DynamicsConfig, eyes: Eyes, wanted: Tensor, ws: Tensor, **more: Any) -> Tensor:
    whole = found(config, eyes, wanted, ws, **more)
    assert whole.steps == config.iterations
    return whole.offsets


def test_lips_come_to_where_they_were(eyes: Eyes) -> None:
    ws, wanted = edited(), lips(show(edited() * 0.5))
    before = point_distance(lips(show(ws)), wanted).mean()
    after = point_distance(lips(show(ws + offsets(CONFIG, eyes, wanted, ws))), wanted).mean()
    assert after < 0.1 * before


def test_batches_of_any_size_give_the_same(eyes: Eyes) -> None:
    ws, wanted = edited(), lips(show(edited() * 0.5))
    few = replace(CONFIG, iterations=5, eye_weight=2.0, reg_weight=0.1, temp_weight=0.1)
    one, two = (offsets(few, eyes, wanted, ws, batch=batches(size)) for size in (1, 2))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_a_batch_that_the_memory_does_not_hold_is_halved_and_nothing_before_it_is_done_again(eyes: Eyes) -> None:
    """The memory runs out in the third step: that step goes on in smaller batches, and the end is the same."""
    ws, wanted = edited(), lips(show(edited() * 0.5))
    few = replace(CONFIG, iterations=3, eye_weight=2.0, reg_weight=0.1, temp_weight=0.1)
    steady = offsets(few, eyes, wanted, ws)
    rendered: list[int] = []
    tried: list[int] = []

    def little(frames: slice, moved: Tensor) -> Tensor:
        if moved.requires_grad:
            tried.append(len(moved))
            if sum(rendered) >= 10 and len(moved) > 1:
                raise torch.OutOfMemoryError("tried to allocate")
        return show(ws[frames] + moved)

    batch = batches(4)
    halved = offsets(few, eyes, wanted, ws, batch=batch, render=little, rendered=rendered.append)
    torch.testing.assert_close(halved, steady, rtol=1e-3, atol=1e-4)
    assert tried == [4, 1, 4, 1, 4, 2, *[1] * 5] and sum(rendered) == 5 * few.iterations
    assert batch.said == [
        "out of memory: went on with 2 frames at once", "out of memory: went on with 1 frames at once"
    ]  # fmt: skip


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("breaks_at", [0, 1, 4])
def test_a_loss_that_is_no_number_ends_with_the_last_offsets_that_gave_one(
    eyes: Eyes, bad: float, breaks_at: int
) -> None:
    """Step 4 says so of what step 3 led to, so what is kept is what three steps before it led to."""
    ws, wanted = edited(), lips(show(edited() * 0.5))
    config = replace(CONFIG, iterations=9, reg_weight=0.1, temp_weight=0.1)
    looks: list[int] = []

    def breaking(images: Tensor) -> Mouth:
        seen = mouth(images)
        looks.append(len(images))
        # Each of five frames is looked at once before the first step, and once in each.
        broken = len(looks) > 5 * (1 + breaks_at) + 2
        return seen._replace(lips=seen.lips * bad) if broken else seen

    stopped = found(config, eyes, wanted, ws, mouth=breaking)
    assert stopped.steps == max(0, breaks_at - 1)
    expected = offsets(replace(config, iterations=stopped.steps), eyes, wanted, ws)
    torch.testing.assert_close(stopped.offsets, expected)
    assert len(looks) == 5 * (2 + breaks_at), "it stops there"


def test_offsets_that_are_no_numbers_are_not_kept(eyes: Eyes) -> None:
    """A step without end, in the last step of all: no loss is there to say so."""
    ws, wanted = edited(), lips(show(edited() * 0.5))
    config = replace(CONFIG, iterations=1, learning_rate=math.inf)
    stopped = found(config, eyes, wanted, ws)
    assert stopped.steps == 0 and not stopped.offsets.any()


def test_each_term_holds_what_it_is_for(eyes: Eyes) -> None:
    ws, wanted = edited(), lips(show(edited() * 0.5))
    free = offsets(CONFIG, eyes, wanted, ws)
    small = offsets(replace(CONFIG, reg_weight=0.3), eyes, wanted, ws)
    calm = offsets(replace(CONFIG, temp_weight=1.0), eyes, wanted, ws)
    seen = offsets(replace(CONFIG, eye_weight=30.0), eyes, wanted, ws)
    drawn = offsets(replace(CONFIG, corner_weight=1.0), eyes, wanted, ws)
    assert regularity(small) < 0.9 * regularity(free)
    assert unsteadiness(calm) < 0.8 * unsteadiness(free)
    corners = mouth(show(ws)).corners
    moved, held = (point_distance(mouth(show(ws + one)).corners, corners).mean() for one in (free, drawn))
    assert held < 0.3 * moved
    plain = eyes.features(show(ws))
    assert eyes(show(ws + seen), plain).mean() < 0.7 * eyes(show(ws + free), plain).mean()


def says(images: Tensor) -> Tensor:
    return images.flatten(1) @ ODDS


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_was_expressed_is_not_lost_to_the_lips_and_more_of_it_costs_nothing(eyes: Eyes, sign: float) -> None:
    """In this world moving the lips back costs some frames of it and gives others more of it."""
    ws, wanted = edited(9), lips(show(edited(9) * 0.5))
    plain = sign * says(show(ws))

    def lost(weight: float) -> tuple[Tensor, float]:
        moved = offsets(
            replace(CONFIG, expression_weight=weight), eyes, wanted, ws,
            expressed=lambda images: sign * says(images),
        )  # fmt: skip
        error = float(point_distance(lips(show(ws + moved)), wanted).mean())
        return plain - sign * says(show(ws + moved)), error

    (free, _), (held, error) = lost(0.0), lost(3.0)
    assert held.max() < 0.02 < 0.05 < free.max()
    assert held.min() < -0.2, "what it gained is not taken back"
    assert error < 0.1 * point_distance(lips(show(ws)), wanted).mean()


def test_rows_that_may_not_move_stay_and_the_frame_before_holds_the_first(eyes: Eyes) -> None:
    ws, wanted = edited(3), lips(show(edited(3) * 0.5))
    rows = torch.tensor([1.0, 0.0, 1.0])
    moved = offsets(replace(CONFIG, iterations=10, reg_weight=0.1), eyes, wanted, ws, rows=rows)
    assert (moved[:, 1] == 0).all() and (moved[:, 0] != 0).any()
    before = 0.3 * torch.ones(ROWS, WIDTH)
    steady = replace(CONFIG, iterations=400, learning_rate=0.01, lip_weight=0.0, temp_weight=1.0)
    assert (offsets(steady, eyes, wanted, ws, before=before) - before).abs().max() < 0.05


def test_equations_3_5_and_6_are_norms_as_printed() -> None:
    one, other = torch.randn(2, 3, 2, generator=random), torch.randn(2, 3, 2, generator=random)
    by_hand = [
        sum(math.dist(a, b) for a, b in zip(x, y, strict=True))
        for x, y in zip(one.tolist(), other.tolist(), strict=True)
    ]
    assert point_distance(one, other).tolist() == pytest.approx(by_hand, rel=1e-5)
    flat = edited(4).flatten(1)
    assert float(regularity(edited(4))) == pytest.approx(sum(math.hypot(*row) for row in flat.tolist()), rel=1e-5)
    steps = [math.dist(a, b) for a, b in zip(flat.tolist(), flat[1:].tolist(), strict=False)]
    assert float(unsteadiness(edited(4))) == pytest.approx(sum(steps), rel=1e-5)
    assert float(unsteadiness(edited(4)[1:], edited(4)[0])) == pytest.approx(sum(steps), rel=1e-5)


def test_where_nothing_is_moved_the_gradients_are_numbers() -> None:
    still = torch.zeros(3, ROWS, WIDTH, requires_grad=True)
    (regularity(still) + unsteadiness(still)).backward()
    assert still.grad is not None and torch.isfinite(still.grad).all()


def test_eyes_are_lpips_of_the_box_alone(eyes: Eyes, perceptual: PerceptualLoss) -> None:
    one = torch.rand(2, 3, SIDE, SIDE, generator=random) * 2 - 1
    other = one.clone()
    other[:, :, :20] = 0.0  # above the box
    wanted = eyes.features(one)
    assert eyes(other, wanted).abs().max() < 1e-6
    other[:, :, 40:60, 40:60] = 0.0
    inside = slice(SIDE // 4, SIDE * 3 // 4)
    expected = perceptual(other[:, :, inside, inside], one[:, :, inside, inside])
    torch.testing.assert_close(eyes(other, wanted), expected)


@given(st.integers(1, 40), st.integers(1, 9), st.data())
def test_windows_keep_each_frame_once_and_reach_over_no_cut(frames: int, window: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, window - 1))
    cuts = data.draw(st.lists(st.integers(0, frames), max_size=3))
    found = windows(frames, cuts, replace(CONFIG, window=window, overlap=overlap))
    assert [frame for first, kept, _ in found for frame in range(first, kept)] == list(range(frames))
    for first, kept, last in found:
        assert first < kept <= last <= first + window
        assert not any(first < cut < last for cut in cuts)
        assert last == kept or last - kept == overlap or last in {*cuts, frames}


def test_shapes_that_do_not_fit_are_refused(eyes: Eyes) -> None:
    with pytest.raises(ValueError, match="need as many offsets"):
        offsets(CONFIG, eyes, torch.zeros(2, 3, 2), edited(3))
    with pytest.raises(ValueError, match="of one shape"):
        point_distance(torch.zeros(2, 3, 2), torch.zeros(2, 3, 1))
    with pytest.raises(ValueError, match="overlap must lie in"):
        replace(CONFIG, overlap=6)
