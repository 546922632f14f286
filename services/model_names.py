"""What models are called in the registry and in the headers of answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from datamodules.types import BadInputError

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
    COLOURISER,
    ENLARGER,
    POSE_EDITOR,
    DIRECTIONS,
    STYLESPACE,
    GENERATOR,
)
"""All that a version can be registered under, beside ``adaptation_of`` each subject."""
_SUBJECT = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
RESTORERS: Mapping[str, str] = {"colourise": COLOURISER, "enlarge": ENLARGER}
"""What does a task, by the task."""


def adaptation_of(subject: str) -> str:
    """What adaptations to a person are registered under; raises ``BadInputError`` for a name that cannot be."""
    if not _SUBJECT.fullmatch(subject):
        raise BadInputError(
            f"a subject is called by up to 40 small letters, digits and dashes, e.g. anna-2, not {subject[:60]!r}"
        )
    return f"{ADAPTATION}-{subject}"


def is_adaptation(name: str) -> bool:
    """Whether a registered name is that of a subject's adaptations."""
    start = f"{ADAPTATION}-"
    return name.startswith(start) and _SUBJECT.fullmatch(name.removeprefix(start)) is not None


def require_kind(config: Mapping[str, Any], name: str) -> None:
    """Raise ``BadInputError`` where models of this kind, task or person are not what ``name`` is served as."""
    if is_adaptation(name) and config["kind"] == "adaptation" and not _person(config):
        return
    usual = usual_name(config)
    if usual != name:
        raise BadInputError(f"this model is registered as {usual}; under {name} no server could load it")


def usual_name(config: Mapping[str, Any]) -> str:
    """What a model folder is registered under where nobody says: by its task or subject, or else by its kind.

    Raises ``BadInputError`` for an adaptation that does not say whose it is.
    """
    if config["kind"] == "adaptation":
        name = _person(config)
        if not name:
            raise BadInputError("this adaptation does not say whose it is; adapt with --subject to register it")
        return adaptation_of(name)
    return RESTORERS.get(str(config.get("task")), f"stylereel-{config['kind']}")


def _person(config: Mapping[str, Any]) -> str:
    subject = config.get("subject")
    return str(subject.get("name", "")) if isinstance(subject, dict) else ""
