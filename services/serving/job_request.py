"""What a job was asked, as it lies in its folder: edits, a task, or a multiple of the frame rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datamodules.types import BadInputError
from modules.editing.directions import EditRequest
from modules.encoders.restoring import Task
from services.pipeline.interpolate import FEWEST, MOST, check_factor
from services.pipeline.options import EditOptions
from services.pipeline.restore import restoring_options
from services.serving.bodies import Body
from services.serving.openapi import FACTOR, SUBJECT
from services.serving.request_options import edit_options

WITH_FACTOR = ("face", "refine", "start", "end", "adapt", SUBJECT)
"""What can be chosen of a job beside its factor."""


@dataclass(frozen=True)
class JobRequest:
    """What is to be done to a clip: one of edits, task and factor."""

    edits: tuple[EditRequest, ...]
    options: EditOptions
    task: Task | None
    factor: int | None
    """How many times as many frames."""
    subject: str | None
    """Whose adaptation the generator is to have."""

    @classmethod
    def read(cls, request: Mapping[str, Any]) -> JobRequest:
        """From a job's ``request.json``; what a server of before did not know is not asked."""
        options, task = edit_options(request["options"]), request.get("task")
        if task is not None:
            options = restoring_options(options.face, options.start, options.end)
        edits = tuple(EditRequest(**edit) for edit in request["edits"])
        return cls(edits, options, task, request.get(FACTOR), request.get(SUBJECT))


def factor_of(body: Body) -> int | None:
    """Take the factor of a job out of its options; raises ``BadInputError`` for one that leaves edits no place."""
    text = body.options.pop(FACTOR, None)
    if text is None:
        return None
    try:
        factor = int(text)
    except ValueError as error:
        raise BadInputError(
            f"cannot use {FACTOR}={text[:64]!r}: it must be a whole number from {FEWEST} to {MOST}"
        ) from error
    check_factor(factor)
    alone(body, f"{FACTOR}={factor}", "a factor", WITH_FACTOR)
    return factor


def alone(body: Body, asked: str, what: str, beside: Sequence[str]) -> None:
    """Raise ``BadInputError`` where edits were asked too, or options other than ``beside``."""
    if body.edits:
        raise BadInputError(f"edits and {asked} were asked together; send two jobs, one after the other")
    unused = [name for name in body.options if name not in beside]
    if unused:
        raise BadInputError(f"{', '.join(unused)} cannot be asked with {what}; {', '.join(beside)} can")
