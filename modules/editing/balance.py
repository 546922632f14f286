"""Edits balanced on the face at hand: what they do to it is measured, and what was not asked is taken back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modules.editing.directions import Edit, EditRequest, EditSet

Measure = Callable[[Sequence[EditRequest]], NDArray[np.float64]]
"""Edits, none for the faces as they are, to ``(N, A)``: attributes in units of edits, NaN for no face."""


@dataclass(frozen=True)
class BalanceConfig:
    """How edits are balanced on a face."""

    frames: int
    """Frames of a clip that are looked at; an image is one."""
    rounds: int
    """Times that the edited face is looked at, each renders and pastes every one; 0 leaves edits as they are."""
    rate: float
    """Share of what is missing, or too much, that the next round asks for in addition."""
    most: float
    """Largest correction of an edit, as a share of its usual strength."""


def balance(
    requests: Sequence[EditRequest],
    edits: EditSet[Edit],
    typical: Mapping[str, float],
    measure: Measure,
    config: BalanceConfig,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[EditRequest, ...]:
    """What to ask beside ``requests``, so that the faces that ``measure`` sees change by what was asked alone.

    ``typical`` names the attributes in the order of ``measure``, each with the usual strength of the edit of that
    name, by which deviations are compared. Of the requests those that name one are measured; others, whose effects
    nobody has put into numbers, are left as they are. Every round adds to the best so far what is missing on
    average over the faces, half as much after one that made it worse, within the bounds of the edits. Empty where
    nothing that is measured is asked, or where no face is seen, as it is or as it was asked to be.

    Faces that are not seen, as they are or as they were asked to be, have no part; ``say`` is told of them, one
    line. A later round that loses one of the others made it worse.
    """
    names = [name for name in typical if name in edits]
    places = [list(typical).index(name) for name in names]
    asked = np.array([sum(r.strength for r in requests if r.name == name) for name in names])
    if not config.rounds or not asked.any():
        return ()
    usual = np.array([abs(typical[name]) for name in names])
    lower = np.maximum([edits[name].lower for name in names], asked - config.most * usual)
    upper = np.minimum([edits[name].upper for name in names], asked + config.most * usual)
    start = measure(())[:, places]
    # The same faces in every round, or what is missing in one could not be compared with what is in another.
    seen: NDArray[np.intp] | None = None
    best, least, left, rate, now = asked, np.inf, np.zeros(len(names)), config.rate, asked
    for _ in range(config.rounds):
        tried = [EditRequest(name, float(s)) for name, s in zip(names, now, strict=True) if s]
        change = measure(tried)[:, places] - start
        if seen is None:
            seen = np.flatnonzero(np.isfinite(change).all(1))
            if len(seen) < len(change):
                say(_left_out(len(seen), len(change)))
            if not len(seen):
                return ()
        missing = asked - change[seen].mean(0)
        deviation = float(np.linalg.norm(missing / usual))
        if deviation < least:
            best, least, left = now, deviation, missing
        else:
            rate /= 2  # a face that answers more than edits say, or is lost: half as far, from the best one
        now = np.clip(best + rate * left, lower, upper)
    more = best - asked
    return tuple(EditRequest(name, float(c)) for name, c in zip(names, more, strict=True) if c)


def _left_out(seen: int, count: int) -> str:
    if not seen:
        return f"edits were not balanced: no face is seen in the {count} frames that they were tried on"
    return f"edits were balanced on {seen} of {count} frames: no face is seen in the others, before or after"
