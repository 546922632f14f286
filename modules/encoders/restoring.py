"""FrEN for frames that lack something: colour, or three quarters of their lines (FrEN/ViEN, section 4.6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.types import BadInputError
from modules.encoders.vit import FrameEncoder, made_for, require_frame_encoder
from modules.model_folder import load_model, require_generator, save_model
from modules.ops import luma

KIND = "restoring-encoder"
Task = Literal["colourise", "enlarge"]
TASKS: tuple[Task, ...] = get_args(Task)
STAGES: dict[Task, str] = {"colourise": "colouriser", "enlarge": "enlarger"}
"""The training of each, which is what its model is called too."""
FACTOR = 4
"""By which ``enlarge`` makes frames larger, as in the paper."""
_ENTRY = ("stem.", "project.", "positions", "class_token.", "told_reduce.", "told_expand.")
"""What reads the frame: the part of FrEN that learns the task; what it then thinks stays FrEN's."""


def degrade(frames: Tensor, task: Task, factor: float = FACTOR) -> Tensor:
    """What a task's input keeps of frames ``(N, 3, S, S)`` in [-1, 1], in the same shape.

    ``colourise`` keeps the luma (BT.601) in all three channels; ``enlarge`` reduces by ``factor`` and enlarges
    again, both bicubic, as in section 4.6. Both are linear, so what a frame lacks is ``x - degrade(x)``.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.shape[2] != frames.shape[3]:
        raise ValueError(f"frames must be (N, 3, S, S), got {tuple(frames.shape)}")
    if task == "colourise":
        return luma(frames).expand_as(frames)
    side = frames.shape[-1]
    small = F.interpolate(
        frames, max(1, round(side / factor)), mode="bicubic", antialias=True, align_corners=False
    )
    return F.interpolate(small, side, mode="bicubic", align_corners=False)


class RestoringEncoder(nn.Module):
    """A FrEN whose entry has learned to read degraded frames; the codes are those of what the frame should be."""

    def __init__(self, task: Task, net: FrameEncoder) -> None:
        super().__init__()
        if task not in TASKS:
            raise ValueError(f"there is no task {task!r}; there are {', '.join(TASKS)}")
        self.task, self.net = task, net
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name.startswith(_ENTRY))

    def forward(self, frames: Tensor, state: None = None) -> tuple[Tensor, None]:
        """FFHQ crops ``(N, 3, S, S)`` in [-1, 1] to ``ws`` ``(N, num_ws, w_dim)``; no state.

        For ``colourise`` colours that are there are not looked at; for ``enlarge`` the crop is taken as it is:
        small in the picture, it has been enlarged by being cropped.
        """
        codes: Tensor
        codes, _ = self.net(degrade(frames, "colourise") if self.task == "colourise" else frames)
        return codes, None

    @property
    def w_basis(self) -> Tensor:
        """FrEN's."""
        return self.net.w_basis

    def entry(self) -> dict[str, Tensor]:
        """The weights that are the model's own, by FrEN's names."""
        return {name: value for name, value in self.net.state_dict().items() if name.startswith(_ENTRY)}


def save_restoring_encoder(
    folder: Path,
    encoder: RestoringEncoder,
    first: FrameEncoder,
    generator_sha256: str,
    card: str,
    extra: dict[str, Any] | None = None,
) -> Path:
    """Write what differs from ``first`` as a model folder in float16; ``first`` is named by its hash."""
    config = {
        "kind": KIND,
        **made_for(first, generator_sha256),
        "task": encoder.task,
        **(extra or {}),
    }
    return save_model(folder, config, {name: value.half() for name, value in encoder.entry().items()}, card)


def load_restoring_encoder(folder: Path, first: FrameEncoder, generator_sha256: str | None) -> RestoringEncoder:
    """Read a restoring encoder and join it to a copy of the FrEN it was trained from; frozen.

    Raises ``BadInputError`` where the folder is damaged, belongs to another generator, or goes with another FrEN.
    """
    model = load_model(folder, KIND)
    if generator_sha256 is not None:
        require_generator(model.config, generator_sha256, f"encoder {folder.name}")
    task = model.config.get("task")
    if task not in TASKS:
        raise BadInputError(f"{folder} names the task {task!r}; there are {', '.join(TASKS)}")
    require_frame_encoder(model.config, first, f"encoder {folder.name}", STAGES[task])
    encoder = RestoringEncoder(cast(Task, task), copy_of(first))
    own = encoder.entry()
    if model.tensors.keys() != own.keys() or any(model.tensors[k].shape != own[k].shape for k in own):
        raise BadInputError(f"{folder} is damaged: its weights are not those of an encoder's entry")
    encoder.net.load_state_dict(encoder.net.state_dict() | {k: v.float() for k, v in model.tensors.items()})
    return encoder.eval().requires_grad_(False)


def copy_of(first: FrameEncoder) -> FrameEncoder:
    """A FrEN with the same weights and the same frozen face nets."""
    copied = FrameEncoder(first.config, first.num_ws, first.w_mean, first.w_basis, first.face_nets)
    copied.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    return copied
