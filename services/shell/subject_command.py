"""``stylereel forget``: what a person's consent no longer covers, deleted from the shell."""

from __future__ import annotations

from typing import Annotated

import typer

from datamodules.disk import remove_tree
from services.settings import load_params


def forget(
    subject: Annotated[str, typer.Argument(help="Whose, as 'adapt --subject' called the person.")],
) -> None:
    """Delete what is kept of a person.

    Deleted are the registered versions with their files, what 'adapt' has under way for the person, what
    'edit --adapt' and 'interpolate --adapt' learned from a clip that the person's adaptations were learned from,
    and the jobs that asked for the person or were given such a clip.

    Not deleted are model folders that you named yourself, outputs with their sidecars, and latent ids of 'invert',
    which expire after keep_latents_hours. What was learned, or is asked of a job, from another clip of the person
    is not known to be of that person.

    While a server runs it holds the jobs: 'curl -X DELETE localhost:3000/v1/subjects/SUBJECT' then does the same.
    """
    from services.adaptation.subjects import clips_of, forget_adaptations, jobs_of
    from services.model_names import adaptation_of
    from services.opened_registry import open_registry
    from services.serving.jobs_lock import lock_jobs

    adaptation_of(subject)
    params = load_params()
    folder = params.runtime.state / "jobs"
    registry, state = open_registry(params), params.runtime.state
    jobs = jobs_of(subject, folder, clips_of(subject, registry, state))
    lock = lock_jobs(folder) if jobs else None

    def delete_jobs(_: frozenset[str]) -> int:
        for job in jobs:
            remove_tree(folder / job)
        return len(jobs)

    try:
        done = forget_adaptations(subject, registry, state, delete_jobs)
    finally:
        if lock is not None:
            lock.release()
    print(
        f"{subject}: {done.versions} registered versions, {done.adaptations} adaptations, {done.jobs} jobs deleted"
    )
