"""Training of the pose editor (FrEN/ViEN, 4.4), and beyond the paper by what its renderings show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from pytorch_optimizer import Ranger
from torch import Tensor

from modules.editing.pose import PoseEditor
from modules.encoders.vit import FrameEncoder
from modules.lit.frame_encoder import FrozenParts
from modules.losses.edits import Edited, EditTerm, judged_means


@dataclass(frozen=True)
class PoseEditorTraining:
    """How the pose editor is trained."""

    steps: int
    """Optimiser steps; 0 leaves the linear part alone."""
    pairs: int
    """Pairs of frames per step, each rendered with gradients: the paper's training."""
    codes: int
    """Codes per step of which a movement is asked, rendered with gradients: measured, and held against it."""
    learning_rate: float
    """Of Ranger; the paper's is 1e-4."""
    warmup_steps: int
    """Steps over which the learning rate rises from 0."""
    gradient_clip: float
    """Largest norm of the gradient."""
    weights: Mapping[str, float]
    """Weights of eq. 6's losses on the pairs: ``l2`` and those of ``FrozenParts``."""
    asked_weights: Mapping[str, float]
    """Weights of the terms on the codes: those handed in, and ``pull``, the mean square of what was learned on top
    of the linear part, in W's own spread."""

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine to a tenth."""
        rise = min(1.0, (step + 1) / max(1, self.warmup_steps))
        fall = 0.55 + 0.45 * float(torch.cos(torch.tensor(torch.pi * min(1.0, step / max(1, self.steps)))))
        return self.learning_rate * rise * fall


class LitPoseEditor(L.LightningModule):
    """The pose editor in training; batches are those of ``datamodules.pose_batches``.

    The paper: from the first frame's code by FrEN, frozen, and the change of the face model to the second frame,
    the code ``w1 + d w`` is rendered and held against the second frame by eq. 6. Beyond it: codes of all kinds are
    moved as asked, and what the judges see in the rendering is held against what was asked, so that 20 degrees are
    20 degrees where pairs a third of a second apart turn by 3.

    ``judge_failures`` counts, since the start or the resumption, the pairs and the movements whose face was not
    seen.
    """

    def __init__(
        self,
        editor: PoseEditor,
        encoder: FrameEncoder,
        training: PoseEditorTraining,
        frozen: FrozenParts,
        terms: Mapping[str, EditTerm],
    ) -> None:
        """Raises ``ValueError`` for a weight whose loss or term is missing."""
        super().__init__()
        missing = (set(training.weights) - {"l2"} - set(frozen.losses)) | (
            set(training.asked_weights) - {"pull"} - set(terms)
        )
        if missing:
            raise ValueError(f"no loss named {', '.join(sorted(missing))}")
        self.editor, self.training_plan, self.frozen = editor, training, frozen
        self.terms = {name: terms[name] for name in training.asked_weights if name != "pull"}
        self.judge_failures = 0
        # Not a submodule: it is not trained, and its weights have a folder of their own.
        self._encoder = (encoder,)

    def on_fit_start(self) -> None:
        """Frozen parts follow the editor to its device."""
        self.frozen.to(self.device)
        self._encoder[0].to(self.device)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Unweighted mean of each loss over what its judge saw.

        Those of eq. 6 are ``pair/...``, those of what was asked ``asked/...``.
        """
        found: dict[str, Tensor] = {}
        if "frames" in batch and self.training_plan.weights:
            with torch.no_grad():
                first, _ = self._encoder[0](batch["frames"])
            target = batch["targets"]
            second = self.frozen.render(first + self.editor(batch["change"]), target.shape[-1])
            pair, failed = self.frozen.image_losses(list(self.training_plan.weights), second, target)
            found |= {f"pair/{name}": value for name, value in pair.items()}
            self.judge_failures += failed
        asked = batch["asked"]
        after = self.frozen.render(batch["ws"] + self.editor(asked), batch["images"].shape[-1]).clamp(-1, 1)
        edited = Edited(batch["images"], after, torch.arange(len(after), device=after.device), asked)
        means, failed = judged_means(self.terms, edited)
        self.judge_failures += failed
        if "pull" in self.training_plan.asked_weights:
            means["pull"] = self.editor.parts(asked)[1].square().mean()
        return {**found, **{f"asked/{name}": value for name, value in means.items()}}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The weighted sum of all losses."""
        found = self.losses(batch)
        weights = {f"pair/{name}": weight for name, weight in self.training_plan.weights.items()}
        weights |= {f"asked/{name}": weight for name, weight in self.training_plan.asked_weights.items()}
        total = torch.stack([weights[name] * value for name, value in found.items()]).sum()
        self.log_dict({f"train/{name}": value for name, value in found.items()}, batch_size=len(batch["ws"]))
        self.log("train/total", total, prog_bar=True, batch_size=len(batch["ws"]))
        self.log("train/judge_failures", float(self.judge_failures))
        return total

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Ranger, as in the paper."""
        optimizer = Ranger(self.editor.parameters(), lr=1.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.training_plan.learning_rate_at)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
