"""A budget of steps that phases share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest

from modules.lit.phases import Phased


@dataclass(frozen=True)
class Stretch:
    """The least that a phase says."""

    name: str
    share: float
    learning_rate: float = 1.0


def plan(steps: int, *shares: float) -> Phased[Stretch]:
    phases = tuple(Stretch(f"phase{number}", share) for number, share in enumerate(shares))
    return Phased(steps, phases, ema_decay=0.9, gradient_clip=1.0, warmup_steps=3)


@pytest.mark.parametrize(
    ("steps", "shares", "lengths"),
    [
        (1400, (0.2143, 0.7143, 0.0714), (300, 1000, 100)),
        (7, (1.0,), (7,)),
        (100, (0.3333, 0.3333, 0.3334), (33, 34, 33)),  # each rounded by itself: 99
        (10, (0.25, 0.25, 0.25, 0.25), (2, 3, 3, 2)),
    ],
)
def test_phases_share_a_budget_to_the_step(
    steps: int, shares: tuple[float, ...], lengths: tuple[int, ...]
) -> None:
    made = plan(steps, *shares)
    assert made.phase_steps == lengths and sum(lengths) == made.ends[-1] == steps


@pytest.mark.parametrize("steps", range(3, 200))
def test_no_step_is_lost_or_far_from_its_share(steps: int) -> None:
    shares = (0.31, 0.35, 0.34)
    made = plan(steps, *shares)
    assert sum(made.phase_steps) == steps
    assert all(abs(n - steps * share) <= 1.0 for n, share in zip(made.phase_steps, shares, strict=True))
    assert [made.at(step)[0] for step in range(steps)] == [
        index for index, n in enumerate(made.phase_steps) for _ in range(n)
    ]


@pytest.mark.parametrize(
    ("shares", "said"),
    [((0.5, 0.4), "0.9"), ((), "0"), ((0.3333, 0.3333, 0.3333), "0.9999"), ((1.0, math.nan), "nan")],
)
def test_shares_that_do_not_add_up_to_one_are_refused(shares: tuple[float, ...], said: str) -> None:
    with pytest.raises(ValueError, match=rf"^the shares of the phases must add up to 1, not to {said}$"):
        plan(100, *shares)


@pytest.mark.parametrize(
    ("steps", "shares", "phase"),
    [(0, (1.0,), 0), (3, (0.1, 0.9), 0), (10, (1.5, -0.5), 1), (10, (-0.5, 1.5), 0), (10, (0.0, 1.0), 0)],
)
def test_a_phase_without_steps_is_refused(steps: int, shares: tuple[float, ...], phase: int) -> None:
    said = rf"^phase phase{phase} gets none of the {steps} steps: leave it out or raise steps$"
    with pytest.raises(ValueError, match=said):
        plan(steps, *shares)


def test_a_larger_budget_stretches_every_phase_and_its_rates() -> None:
    """Warm-up is in steps; the fall begins at the middle of a phase and ends at a tenth, whatever its length."""
    short, long = plan(40, 0.25, 0.75), plan(400, 0.25, 0.75)
    assert long.ends == tuple(10 * end for end in short.ends)
    for made, first, last in ((short, 10, 39), (long, 100, 399)):
        assert [made.learning_rate(first + n) for n in range(3)] == pytest.approx([1 / 3, 2 / 3, 1.0])
        middle = first + (last + 1 - first) // 2
        assert made.learning_rate(middle) == pytest.approx(1.0)
        assert made.learning_rate(middle + 1) < 1.0
        assert 0.1 <= made.learning_rate(last) < 0.12
    rates = {step: short.learning_rate(step) for step in (4, 25)}
    assert rates == pytest.approx({step: long.learning_rate(10 * step) for step in rates})


def test_a_plan_is_changed_as_a_whole() -> None:
    made = plan(40, 0.25, 0.75)
    with pytest.raises(ValueError, match="must add up to 1"):
        replace(made, phases=made.phases[:1])
    assert replace(made, steps=80).phase_steps == (20, 60)
