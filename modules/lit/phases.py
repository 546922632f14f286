"""Trainings in phases: which phase a step lies in, and its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class TimedPhase(Protocol):
    """One stretch of a training."""

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        ...

    @property
    def learning_rate(self) -> float:
        """Its highest."""
        ...


P = TypeVar("P", bound=TimedPhase)


@dataclass(frozen=True)
class Phased(Generic[P]):
    """What trainings share whose ``phases`` follow one another; each names the kind of its phases again."""

    phases: tuple[P, ...]
    """In order."""
    ema_decay: float
    """Of the averaged weights, which are the ones that ship."""
    gradient_clip: float
    """Largest norm of the gradient."""
    warmup_steps: int
    """Steps over which each phase's learning rate rises from 0."""

    @property
    def ends(self) -> tuple[int, ...]:
        """The step at which each phase ends."""
        totals, end = [], 0
        for phase in self.phases:
            end += phase.steps
            totals.append(end)
        return tuple(totals)

    def at(self, step: int) -> tuple[int, P]:
        """Index of the phase that trains step ``step`` (from 0), and the phase; the last one after the end."""
        for index, end in enumerate(self.ends):
            if step < end:
                return index, self.phases[index]
        return len(self.phases) - 1, self.phases[-1]

    def learning_rate(self, step: int) -> float:
        """Learning rate: linear warm-up, flat, then a cosine over the last half of each phase down to a tenth."""
        index, phase = self.at(step)
        into = step - (self.ends[index] - phase.steps)
        rise = min(1.0, (into + 1) / max(1, self.warmup_steps))
        late = max(0.0, min(1.0, 2.0 * into / phase.steps - 1.0))
        fall = 0.1 + 0.9 * 0.5 * (1.0 + math.cos(late * math.pi))
        return phase.learning_rate * rise * fall
