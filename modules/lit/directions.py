"""Learning directions by gradient through what judges the pictures: any set of edits, or one age as in FrEN/ViEN.

The same step serves both: render ``w + s d`` (eq. S1), and sum the terms of ``modules.losses.edits`` that were
handed in. With one edit and the terms of eq. S2 it is the paper's age network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from modules.lit.direction_training import DirectionTraining
from modules.losses.edits import Edited, EditTerm, judged_means

Render = Callable[[Tensor], Tensor]
"""``render(ws)`` gives ``(N, 3, r, r)``, differentiable with respect to the codes."""


class LitDirections(L.LightningModule):
    """Directions ``(E, num_ws, w_dim)`` in training; ``directions()`` are the ones that ship.

    Batches are dicts of ``ws`` ``(C, num_ws, w_dim)``, their renderings ``images`` ``(C, 3, r, r)``, and of N
    edits the code ``code``, the number ``edit`` and the ``strength``, all ``(N,)``.

    What is learned is a change of the start in the coordinates in which W is round: along what codes differ in, a
    step moves far, along what no code does, hardly. That, and the pull to the start, keep a direction from turning
    into a pattern that only the judges see.

    ``judge_failures`` counts, since the start or the resumption, the edits whose face some judge did not see.
    """

    def __init__(
        self,
        start: Tensor,
        rows: Sequence[tuple[int, int]],
        spread: Tensor,
        asked: Tensor,
        training: DirectionTraining,
        render: Render,
        terms: Mapping[str, EditTerm],
    ) -> None:
        """``start`` as above; ``rows`` says for each edit which rows ``[first, last)`` it may move.

        ``spread`` ``(w_dim, w_dim)`` is a symmetric root of W's covariance. ``asked`` ``(E, K)`` is the change of
        each attribute that one unit of each edit asks. Raises ``ValueError`` for shapes that do not fit, a start
        that moves rows it may not or nothing at all, and a weight whose term is missing.
        """
        super().__init__()
        edits, num_ws, w_dim = start.shape
        if len(rows) != edits or asked.shape[:1] != (edits,) or spread.shape != (w_dim, w_dim):
            raise ValueError(
                f"{edits} directions of {w_dim} numbers need as many rows and asked changes and a square spread, "
                f"got {len(rows)}, {tuple(asked.shape)} and {tuple(spread.shape)}"
            )
        mask = torch.tensor([[first <= row < last for row in range(num_ws)] for first, last in rows])
        if (start[~mask] != 0).any():
            raise ValueError("a direction moves rows that it may not move")
        if not start.flatten(1).any(dim=1).all():
            # Steps count in the start's own size: of 0, they would be 0 for ever.
            raise ValueError("a direction that is 0 everywhere has no size to learn in; start with a fitted one")
        missing = set(training.weights) - set(terms)
        if missing:
            raise ValueError(f"no term named {', '.join(sorted(missing))}")
        self.training_plan, self.render = training, render
        self.terms = {name: terms[name] for name in training.weights}
        self.judge_failures = 0
        round_start = start.double() @ torch.linalg.inv(spread.double())
        size = (round_start.square().sum((1, 2)) / (mask.sum(1) * w_dim)).sqrt()
        self.register_buffer("start", start.float(), persistent=False)
        self.register_buffer("mask", mask[:, :, None], persistent=False)
        self.register_buffer("spread", spread.float(), persistent=False)
        self.register_buffer("size", size.float()[:, None, None], persistent=False)
        self.register_buffer("asked", asked.float(), persistent=False)
        self.start: Tensor
        self.mask: Tensor
        self.spread: Tensor
        self.size: Tensor
        self.asked: Tensor
        self.change = nn.Parameter(torch.zeros_like(self.start))

    def directions(self) -> Tensor:
        """``(E, num_ws, w_dim)``: change of the codes per unit of each edit."""
        return self.start + self.size * ((self.change * self.mask) @ self.spread)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Unweighted mean of each term over the edits that its judge saw, and ``pull``.

        That is 1 where the directions went as far as they began long.
        """
        code, edit, strength = batch["code"], batch["edit"], batch["strength"]
        moved = batch["ws"][code] + strength[:, None, None] * self.directions()[edit]
        after = self.render(moved).clamp(-1, 1)
        edited = Edited(batch["images"], after, code, strength[:, None] * self.asked[edit])
        found, failed = judged_means(self.terms, edited)
        self.judge_failures += failed
        allowed = self.mask.sum() * self.change.shape[-1]
        return {**found, "pull": (self.change * self.mask).square().sum() / allowed}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The weighted sum of the terms."""
        found = self.losses(batch)
        weights = {**self.training_plan.weights, "pull": self.training_plan.pull}
        total = torch.stack([weights[name] * value for name, value in found.items()]).sum()
        self.log_dict({f"train/{name}": value for name, value in found.items()}, batch_size=len(batch["edit"]))
        self.log("train/total", total, prog_bar=True, batch_size=len(batch["edit"]))
        self.log("train/judge_failures", float(self.judge_failures))
        return total

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam, its rate falling along a cosine to a tenth."""
        optimizer = torch.optim.Adam([self.change], lr=self.training_plan.learning_rate, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, self.training_plan.steps, eta_min=self.training_plan.learning_rate / 10
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
