"""``stylereel forget``: what a person's consent no longer covers, deleted from the shell."""

from __future__ import annotations

import shutil
from typing import Annotated

import typer

from services.settings import load_params


def forget(
    subject: Annotated[str, typer.Argument(help="Whose, as 'adapt --subject' called the person.")],
) -> None:
    """Delete all that is kept of a person: registered versions with their files, adaptations, jobs.

    Model folders that you named yourself stay where they are. While a server runs it holds the jobs:
    'curl -X DELETE localhost:3000/v1/subjects/SUBJECT' then does the same.
    """
    from services.jobs import lock_jobs
    from services.model_names import adaptation_of
    from services.opened_registry import open_registry
    from services.subjects import Forgotten, forget_adaptations, jobs_of

    adaptation_of(subject)
    params = load_params()
    folder = params.runtime.state / "jobs"
    jobs = jobs_of(subject, folder)
    lock = lock_jobs(folder) if jobs else None
    try:
        versions, adaptations = forget_adaptations(subject, open_registry(params), params.runtime.state)
        for job in jobs:
            shutil.rmtree(folder / job, ignore_errors=True)
    finally:
        if lock is not None:
            lock.release()
    done = Forgotten(versions, adaptations, len(jobs))
    print(
        f"{subject}: {done.versions} registered versions, {done.adaptations} adaptations, {done.jobs} jobs deleted"
    )
