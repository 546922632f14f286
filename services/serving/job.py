"""A video job: what is asked of it, what is known of it, and what works on its video."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from modules.encoders.restoring import Task

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Kind = Literal["edit", "interpolate"] | Task
Report = Callable[[str, float], None]
"""Takes the name of the stage and how much of it is done, in [0, 1]."""


class Editor(Protocol):
    """What a job does with its video; the service hands in the pipeline, with the models of the moment."""

    def analyse(self, source: Path, request: dict[str, Any]) -> dict[str, Any]:
        """What the clip is; raises ``BadInputError`` for one that is not taken. Runs at the request too."""
        ...

    def check(self, request: dict[str, Any]) -> None:
        """Raise ``BadInputError`` for a request that ``render`` could not meet."""
        ...

    def render(
        self, source: Path, target: Path, request: dict[str, Any], report: Report, cancelled: Callable[[], bool]
    ) -> dict[str, Any]:
        """Write the edited clip and return the report; raises ``CancelledError`` once ``cancelled`` says so."""
        ...


@dataclass(frozen=True)
class Job:
    """What is known of a job."""

    id: str
    state: State
    stage: str
    """``queued``, ``analyse``, a stage of the pipeline, or ``finish``."""
    progress: float
    """Of the stage, in [0, 1]."""
    error: str | None
    """One line, where it failed."""
    status: int | None
    """The HTTP status that the error stands for, where it failed."""
    created: float
    """Seconds since 1970."""
    output: Path | None
    """The edited clip, where it succeeded."""
    report: dict[str, Any] | None
    """What the pipeline said of the clip, where it succeeded."""


def kind_of(request: Mapping[str, Any]) -> Kind:
    """What a job's request is for."""
    task: Task | None = request.get("task")
    if task is not None:
        return task
    return "edit" if request.get("factor") is None else "interpolate"
