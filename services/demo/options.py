"""What the demo does: section ``demo`` of ``params.yaml``."""

from __future__ import annotations

from dataclasses import dataclass

from modules.editing.directions import EditRequest
from services.pipeline.encoders import EncoderKind


@dataclass(frozen=True)
class DemoConfig:
    """Section ``demo``: the clip, the edits and the sheet of ``stylereel demo``."""

    asset: str
    """Asset of ``assets.toml`` that the clip belongs to."""
    file: str
    """The clip in it."""
    encoder: EncoderKind
    """``frame`` or ``video``: what inverts the clip, in the shell and where it is served."""
    edits: dict[str, float]
    """Name of each edit to its strength; one clip is made for each."""
    steps: int
    """Optimisation steps per frame; 0 takes the encoder's codes as they are."""
    columns: int
    """Moments that the sheet shows."""
    remembered_bytes: int
    """Memory for what the codes show before any edit, and what is what in the crops; 0 remembers nothing."""
    measured_frames: int
    """Frames that the metrics are measured on, evenly spread."""
    job_seconds: float
    """Length of the section that is edited as a job over HTTP."""
    served_steps: int
    """Optimisation steps per frame of that section, there and in the shell; with any, what its frames share takes
    ``pipeline.follow.shared_steps`` beside them, and the first at least ``first_steps``."""
    start_seconds: float
    """How long the server may take until it is ready."""
    tolerance: float
    """Largest mean difference, in steps of 8 bits, between what HTTP and what the shell gives."""

    def requests(self) -> dict[str, EditRequest]:
        """File stem of each edited clip, e.g. ``age+20``, to what is asked."""
        return {f"{name}{value:+g}": EditRequest(name, value) for name, value in self.edits.items()}
