"""What models are called in the registry and in the headers of answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FRAME_ENCODER = "stylereel-frame-encoder"
VIDEO_ENCODER = "stylereel-video-encoder"
POSE_EDITOR = "stylereel-pose-editor"
COLOURISER = "stylereel-colouriser"
ENLARGER = "stylereel-enlarger"
DIRECTIONS = "stylereel-directions"
STYLESPACE = "stylereel-stylespace"
GENERATOR = "stylereel-generator"
ADAPTATION = "stylereel-adaptation"
NAMES = (
    FRAME_ENCODER,
    VIDEO_ENCODER,
    "stylereel-recurrent-encoder",
    COLOURISER,
    ENLARGER,
    POSE_EDITOR,
    "stylereel-age-direction",
    DIRECTIONS,
    STYLESPACE,
    GENERATOR,
    ADAPTATION,
)
"""All that a version can be registered under."""
RESTORERS: Mapping[str, str] = {"colourise": COLOURISER, "enlarge": ENLARGER}
"""What does a task, by the task."""


def usual_name(config: Mapping[str, Any]) -> str:
    """What a model folder is registered under where nobody says: by its task, or else by its kind."""
    return RESTORERS.get(str(config.get("task")), f"stylereel-{config['kind']}")
