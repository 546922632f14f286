"""``DELETE /v1/subjects/{subject}``: what a person's consent no longer covers."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import FastAPI, Request

from datamodules.disk import remove_tree
from services.adaptation.subjects import Forgotten, jobs_of
from services.serving.handling import State, in_thread, state_of
from services.serving.schemas import ForgottenOut


def add_subjects(app: FastAPI) -> None:
    """The route."""

    @app.delete("/v1/subjects/{subject}", tags=["subjects"])
    async def forget(request: Request, subject: str) -> ForgottenOut:
        """Delete a person's adaptations, registered or not, and the jobs that asked for them or had their clip."""
        return ForgottenOut(**asdict(await in_thread(lambda: forgotten(subject, state_of(request)))))


def forgotten(subject: str, state: State) -> Forgotten:
    """Delete what a server keeps of a person, see ``forget_adaptations``."""

    def delete_jobs(clips: frozenset[str]) -> int:
        jobs = jobs_of(subject, state.jobs.folder, clips)
        for job in jobs:
            try:
                state.jobs.delete(job)
            except KeyError:  # half made or half deleted by a server that was killed; or gone since
                remove_tree(state.jobs.folder / job)
        return len(jobs)

    return state.engine.forget(subject, delete_jobs)
