"""``DELETE /v1/subjects/{subject}``: what a person's consent no longer covers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import FastAPI, Query, Request
from pydantic import StringConstraints

from datamodules.disk import remove_tree
from services.adaptation.subjects import Forgotten, jobs_of
from services.serving.bodies import check_query
from services.serving.handling import State, in_thread, state_of
from services.serving.schemas import ErrorOut, ForgottenOut

Clips = Annotated[
    tuple[Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")], ...],
    Query(description="Sha256 of a clip or an image of the person, beside those of registered adaptations."),
]


def add_subjects(app: FastAPI) -> None:
    """The route."""

    @app.delete("/v1/subjects/{subject}", tags=["subjects"], responses={409: {"model": ErrorOut}})
    async def forget(request: Request, subject: str, clip: Clips = ()) -> ForgottenOut:
        """Delete a person's adaptations, jobs that asked for them, and jobs and latents of the person's clips."""
        check_query(request, ("clip",))
        state = state_of(request)
        return ForgottenOut(**asdict(await in_thread(lambda: forgotten(subject, frozenset(clip), state))))


def forgotten(subject: str, more_clips: frozenset[str], state: State) -> Forgotten:
    """Delete what a server keeps of a person, see ``forget_adaptations``."""

    def delete_jobs(clips: frozenset[str]) -> int:
        jobs = jobs_of(subject, state.jobs.folder, clips)
        for job in jobs:
            try:
                state.jobs.delete(job)
            except KeyError:  # half made or half deleted by a server that was killed; or gone since
                remove_tree(state.jobs.folder / job)
        return len(jobs)

    return state.engine.forget(subject, delete_jobs, more_clips)
