"""A generator tuned on frames of a clip: resumed where it was stopped, with fewer frames a step if it must be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from datamodules.coded_frames import CodedFrames
from modules.lit.tuned_generator import LitTunedGenerator
from modules.out_of_memory import BatchSize
from services.progress import Meter
from services.training.trainer import LAST, fit_steps


class Steps(Protocol):
    """What the settings of a tuning say of its steps."""

    @property
    def iterations(self) -> int:
        """How many."""

    @property
    def batch_size(self) -> int:
        """Frames in each."""

    @property
    def checkpoint_every(self) -> int:
        """Steps between checkpoints."""


def tune(
    lit: LitTunedGenerator,
    batches: Callable[[int, int], CodedFrames],
    steps: Steps,
    size: int,
    device: str,
    run: Path,
    meter: Meter,
    rate: str,
) -> tuple[int, tuple[str, ...]]:
    """Train in the folder ``run``; returns the steps that were made and what is to be said of them, one line each.

    ``batches`` takes how many frames a step has and the first step that is left. ``size`` is the side of the
    frames in pixels, ``rate`` the key of the learning rate in ``params.yaml``. Raises ``BadInputError`` (507)
    where the memory does not hold one frame.
    """

    def tell(step: int) -> None:
        meter.advance(step - meter.done)

    batch = BatchSize(
        steps.batch_size,
        "frames per step",
        f"one frame of {size} px with gradients; leave the larger of pipeline.sizes out",
    )
    while True:
        try:
            fit_steps(
                lit,
                steps.iterations,
                lambda first, count=batch.size: batches(count, first),  # type: ignore[misc]
                steps.checkpoint_every,
                run,
                accelerator="gpu" if device == "cuda" else "cpu",
                after_step=tell,
            )
        except (RuntimeError, MemoryError) as error:
            batch.halve(error, batch.size)
            if not (run / LAST).is_file():
                lit.restart()
            continue
        break
    if lit.stopped_at is None:
        return steps.iterations, tuple(batch.said)
    stopped = (
        f"the loss was no number after {lit.stopped_at} of {steps.iterations} steps; what was learned "
        f"until then is kept; a smaller {rate} may go on"
    )
    return lit.stopped_at, (*batch.said, stopped)
