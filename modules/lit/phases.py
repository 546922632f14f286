"""Trainings in phases: which phase a step lies in, and its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, Protocol, TypeVar


class TimedPhase(Protocol):
    """One stretch of a training."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def share(self) -> float:
        """Of the training's steps."""
        ...

    @property
    def learning_rate(self) -> float:
        """Its highest."""
        ...


P = TypeVar("P", bound=TimedPhase)


@dataclass(frozen=True)
class Phased(Generic[P]):
    """What trainings share whose ``phases`` follow one another; each names the kind of its phases again."""

    steps: int
    """Optimiser steps of all phases together."""
    phases: tuple[P, ...]
    """In order; their shares of the steps add up to 1."""
    ema_decay: float
    """Of the averaged weights, which are the ones that ship."""
    gradient_clip: float
    """Largest norm of the gradient."""
    warmup_steps: int
    """Steps over which each phase's learning rate rises from 0."""

    def __post_init__(self) -> None:
        whole = math.fsum(phase.share for phase in self.phases)
        if not math.isclose(whole, 1.0, abs_tol=1e-6):
            raise ValueError(f"the shares of the phases must add up to 1, not to {whole:.7g}")
        for phase, steps in zip(self.phases, self.phase_steps, strict=True):
            if steps < 1:
                raise ValueError(
                    f"phase {phase.name} gets none of the {self.steps} steps: leave it out or raise steps"
                )

    @property
    def ends(self) -> tuple[int, ...]:
        """The step at which each phase ends."""
        # Ends are rounded, not lengths: so the lengths add up to the steps.
        *shares, _ = accumulate(phase.share for phase in self.phases)
        return (*(round(self.steps * share) for share in shares), self.steps)

    @property
    def phase_steps(self) -> tuple[int, ...]:
        """Optimiser steps of each phase."""
        ends = self.ends
        return tuple(end - start for start, end in zip((0, *ends), ends, strict=False))

    def at(self, step: int) -> tuple[int, P]:
        """Index of the phase that trains step ``step`` (from 0), and the phase; the last one after the end."""
        for index, end in enumerate(self.ends):
            if step < end:
                return index, self.phases[index]
        return len(self.phases) - 1, self.phases[-1]

    def learning_rate(self, step: int) -> float:
        """Learning rate: linear warm-up, flat, then a cosine over the last half of each phase down to a tenth."""
        index, phase = self.at(step)
        steps = self.phase_steps[index]
        into = step - (self.ends[index] - steps)
        rise = min(1.0, (into + 1) / max(1, self.warmup_steps))
        late = max(0.0, min(1.0, 2.0 * into / steps - 1.0))
        fall = 0.1 + 0.9 * 0.5 * (1.0 + math.cos(late * math.pi))
        return phase.learning_rate * rise * fall
