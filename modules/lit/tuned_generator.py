"""A generator whose weights are tuned while the codes stay; what is kept is their average, the last good one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from modules.generators.adaptation import adaptable, copy_of, difference_of
from modules.generators.protocol import Generator
from modules.losses.perceptual import PerceptualLoss

STOPPED_AT = "stopped_at"
"""In a checkpoint: the step after which the loss was no number, or None."""


class LitTunedGenerator(L.LightningModule, ABC):
    """The generator in training; what it is to show is for the classes that derive from it.

    Steps of one frame at a constant rate leave the weights swaying, so their average is what is kept: over about
    the last ``average_over`` of the steps made, the later the more (polynomial-decay averaging, Shamir and Zhang
    2013, with an eta of ``1 / average_over - 1``). A loss or gradient that is not finite ends the training with
    the last average whose weights gave finite ones, and ``stopped_at`` is then the step.
    """

    def __init__(
        self,
        base: Generator,
        learning_rate: float,
        average_over: float,
        perceptual: PerceptualLoss,
        start: Generator | None = None,
    ) -> None:
        """``base`` stays as it is; ``start`` has its parameters, and is gone on from where it is given.

        ``learning_rate`` is Adam's, in units of each parameter's own size (root mean square). ``average_over`` is
        a share of the steps, in [0, 1); 0 keeps the last weights.
        """
        super().__init__()
        self.learning_rate = learning_rate
        self.stopped_at: int | None = None
        self._frozen = (base, perceptual, start or base)  # in a tuple: no part of the checkpoints
        self.generator = cast(nn.Module, copy_of(start or base))

        def mixed(average: Tensor, now: Tensor, steps: Tensor | int) -> Tensor:
            return average.lerp(now, 1 / (1 + average_over * int(steps)))

        self.average = AveragedModel(self.generator, avg_fn=mixed)
        for parameter in adaptable(self.learner).values():
            parameter.requires_grad_(True)
        self._good = {name: value.detach().clone() for name, value in adaptable(self.kept).items()}

    @property
    def base(self) -> Generator:
        """What the generator was."""
        return self._frozen[0]

    @property
    def perceptual(self) -> PerceptualLoss:
        """LPIPS."""
        return self._frozen[1]

    @property
    def learner(self) -> Generator:
        """The generator that the optimiser moves."""
        return cast(Generator, self.generator)

    @property
    def kept(self) -> Generator:
        """The average of what it was."""
        return cast(Generator, self.average.module)

    @abstractmethod
    def terms(self, batch: Mapping[str, Tensor]) -> dict[str, tuple[float, Tensor]]:
        """Weight and unweighted mean of each term of the loss, by name."""

    def restart(self) -> None:
        """Begin anew: as if no step had been made."""
        start = adaptable(self._frozen[2])
        with torch.no_grad():
            for moved in (self.kept, self.learner):
                for name, parameter in adaptable(moved).items():
                    parameter.copy_(start[name])
            self.average.n_averaged.zero_()
        self._note()

    def difference(self) -> dict[str, Tensor]:
        """How far each parameter of the average lies from the base's, float32 on the CPU."""
        return difference_of(self.kept, self.base)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor | None:
        """The weighted sum of the terms; None, which Lightning skips, where it is not finite."""
        with torch.autocast(batch["ws"].device.type, enabled=False):
            found = self.terms(batch)
        total = torch.stack([weight * value for weight, value in found.values()]).sum()
        if not torch.isfinite(total):
            self._stop()
            return None
        self.log_dict({f"train/{name}": value for name, (_, value) in found.items()}, batch_size=len(batch["ws"]))
        self.log("train/total", total, prog_bar=True, batch_size=len(batch["ws"]))
        return total

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """A gradient that is not finite moves nothing; where it is, the average until now is good."""
        parameters = adaptable(self.learner).values()
        if all(torch.isfinite(p.grad).all() for p in parameters if p.grad is not None):
            self._note()
        else:
            optimizer.zero_grad()
            self._stop()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, the rate constant as in the paper."""
        sizes = adaptable(self.base)
        return torch.optim.Adam(
            {"params": [value], "lr": self.learning_rate * float(sizes[name].detach().square().mean().sqrt())}
            for name, value in adaptable(self.learner).items()
        )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimiser's, and the average's right after it: checkpoints are written before the batch's end."""
        super().optimizer_step(*args, **kwargs)
        if self.stopped_at is None:
            self.average.update_parameters(self.generator)

    def on_train_start(self) -> None:
        """What a checkpoint brought is good."""
        self._note()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A training that ended is not gone on with."""
        checkpoint[STOPPED_AT] = self.stopped_at

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See ``on_save_checkpoint``."""
        self.stopped_at = checkpoint.get(STOPPED_AT)

    def _note(self) -> None:
        for name, parameter in adaptable(self.kept).items():
            self._good[name] = parameter.detach().clone()

    def _stop(self) -> None:
        self.stopped_at = self.global_step
        with torch.no_grad():
            for moved in (self.kept, self.learner):
                for name, parameter in adaptable(moved).items():
                    parameter.copy_(self._good[name])
        self.trainer.should_stop = True
