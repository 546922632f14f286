"""A training that stops where its loss or gradient is no number, before weights or checkpoints are."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from datamodules.types import BadInputError

LOOK_EVERY = 20
"""Steps on a GPU after which the host asks; each time it waits for the device."""


class FiniteSteps(L.Callback):
    """Raises ``BadInputError`` with the step, and the losses that were no number where they are known.

    On a CPU that is before the step is made. On a GPU every step is noted on the device, and the host asks now and
    then and before each checkpoint, so weights in memory may be lost, but none that are written.
    """

    def __init__(self) -> None:
        self._lost: Tensor | None = None

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Look at the loss."""
        self._note(trainer, loss.detach().isfinite().all())

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at the gradient, before it is clipped: its norm is finite where all of it is."""
        gradients = [value.grad for value in pl_module.parameters() if value.grad is not None]
        if gradients:
            self._note(trainer, torch.nn.utils.get_total_norm(gradients).isfinite())

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Nothing is lost yet."""
        self._lost = None

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Nothing of a step that was lost is written."""
        self._ask(trainer)

    def _note(self, trainer: L.Trainer, finite: Tensor) -> None:
        step = trainer.global_step
        if self._lost is None:
            self._lost = torch.full((), -1, dtype=torch.long, device=finite.device)
        # The first such step, without waiting for the device to say whether there is one.
        self._lost = torch.where((self._lost < 0) & ~finite, step, self._lost)
        if not _waits(finite) or (step + 1) % LOOK_EVERY == 0:
            self._ask(trainer)

    def _ask(self, trainer: L.Trainer) -> None:
        step = -1 if self._lost is None else int(self._lost)
        if step < 0:
            return
        names = []
        if step == trainer.global_step:  # later ones are lost themselves
            logged = trainer.callback_metrics.items()
            lost = [name.removeprefix("train/") for name, value in logged if not value.isfinite().all()]
            names = [name for name in lost if name != "total"] or lost  # the sum of the others says less
        which = f"{', '.join(names)} is" if names else "the loss or its gradient is"
        raise BadInputError(
            f"{which} no number at step {step}: lower the learning rate of this training in params.yaml, which "
            "begins it anew; the last checkpoint is still good, the same command goes on from it"
        )


def _waits(value: Tensor) -> bool:
    """Whether the host has to wait for a device to know a value."""
    return value.is_cuda
