"""The clip's codes, found once, and the clips that are made from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.disk import beside
from modules.editing.directions import EditRequest
from modules.generators.codes_file import read_codes, save_codes
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.sidecar import described, write_sidecar
from services.pipeline.stream import VideoReport, edit_video, invert_video
from services.progress import Report


class Recorded:
    """An encoder that answers with codes found before, in the order of the frames."""

    def __init__(self, ws: Tensor) -> None:
        """``ws`` is ``(N, num_ws, w_dim)``: of the N frames that show the face."""
        self.ws, self.place = ws, 0

    def __call__(self, frames: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The next codes, as many as there are frames; raises ``ValueError`` past the last one."""
        first, self.place = self.place, self.place + len(frames)
        if self.place > len(self.ws):
            raise ValueError(f"{self.place} frames show the face, but codes were found for {len(self.ws)}")
        return self.ws[first : self.place], state


def invert_clip(clip: Path, codes: Path, models: Models, steps: int, report: Report) -> VideoReport:
    """Write the codes of the clip's face to ``codes``; ``steps`` of optimisation per frame."""
    ws, done = invert_video(clip, models, EditOptions(refine=steps), report)
    with beside(codes) as part:
        save_codes(part, ws, models.generator)
    return done


def edit_clip(
    clip: Path,
    target: Path,
    codes: Path,
    requests: Sequence[EditRequest],
    models: Models,
    steps: int,
    report: Report,
) -> VideoReport:
    """Paste the edited face back into the clip, or, without an edit, the face that the codes alone show.

    The sidecar names the options that the shell needs to make the same.
    """
    given = described(clip)
    recorded = Recorded(read_codes(codes, models.generator).to(torch.device(models.device)))
    played = dataclasses.replace(models, encoder=recorded)
    options = EditOptions(refine=0)
    if not requests:
        options = dataclasses.replace(options, paste="replace", region="head")
    done = edit_video(clip, target, requests, played, options, report)
    options = dataclasses.replace(options, refine=steps)
    write_sidecar(target, given, requests, options, models.versions, models.numbers(), done)
    return done
