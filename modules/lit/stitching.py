"""A generator tuned until its edited faces meet the frames they are pasted into (STIT's stitching tuning).

STIT tunes one generator per frame; here it is one for the clip, which costs a share of it and cannot flicker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from modules.editing.stitching import StitchingTraining, border_of, inside_of
from modules.generators.protocol import Generator
from modules.lit.tuned_generator import LitTunedGenerator
from modules.losses.perceptual import PerceptualLoss
from modules.losses.pixels import rms_distance

Draw = Callable[[Generator, Tensor, Tensor, int], Tensor]
"""Generator, codes and offsets ``(N, num_ws, w_dim)`` and side to the edited faces ``(N, 3, side, side)``."""


class LitStitching(LitTunedGenerator):
    """The stitched generator in training; batches are those of ``StitchedFrames``."""

    def __init__(
        self, base: Generator, training: StitchingTraining, perceptual: PerceptualLoss, draw: Draw
    ) -> None:
        """``base`` drew the edited faces, and stays as it is; ``draw`` draws them with another one."""
        super().__init__(base, training.learning_rate, training.average_over, perceptual)
        self.training_plan, self.draw = training, draw

    def terms(self, batch: Mapping[str, Tensor]) -> dict[str, tuple[float, Tensor]]:
        """At the border the distance to the frame, inside that to the edited face as it was pasted."""
        plan, perceptual = self.training_plan, self.perceptual
        frames, edited, border, inside = (
            batch["images"], batch["edited"], border_of(batch["masks"]), inside_of(batch["masks"])
        )  # fmt: skip
        drawn = self.draw(self.learner, batch["ws"], batch["offsets"], frames.shape[-1]).float()
        shown = drawn.clamp(-1, 1)  # as the edited faces were; what is beyond has to find back at the border alone
        return {
            "border_lpips": (plan.border_lpips, perceptual(shown, frames, border).mean()),
            "border_l2": (plan.border_l2, rms_distance(drawn, frames, border).mean()),
            "inside_lpips": (plan.inside_lpips, perceptual(shown, edited, inside).mean()),
            "inside_l2": (plan.inside_l2, rms_distance(shown, edited, inside).mean()),
        }
