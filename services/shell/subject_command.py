"""``stylereel forget``: what a person's consent no longer covers, deleted from the shell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datamodules.disk import remove_tree
from datamodules.types import BadInputError
from services.settings import load_params


def forget(
    subject: Annotated[str, typer.Argument(help="Whose, as 'adapt --subject' called the person.")],
    clip: Annotated[
        list[Path] | None,
        typer.Option(help="A clip or image of the person, beside those known; several times too.", metavar="FILE"),
    ] = None,
) -> None:
    """Delete what is kept of a person.

    Deleted are the registered versions with their files, what 'adapt' has under way for the person, what
    'edit --adapt' and 'interpolate --adapt' learned from a clip of the person, and the jobs that asked for the
    person or were given such a clip. So are latent ids that 'POST /v1/invert' gave for a file you name. Known are
    the clips of registered adaptations and of those under way; name others with --clip.

    Example:

        stylereel forget anna --clip interview.mp4

    Not deleted are model folders that you named yourself, outputs with their sidecars, and latent ids of images
    that you do not name, which expire after keep_latents_hours.

    While a server runs it holds the jobs: 'curl -X DELETE localhost:3000/v1/subjects/SUBJECT' then does the same;
    clips are named by their sha256 there.
    """
    from services.adaptation.subjects import clips_of, forget_adaptations, jobs_of
    from services.model_names import adaptation_of
    from services.opened_registry import open_registry
    from services.pipeline.sidecar import file_sha256
    from services.serving.jobs_lock import lock_jobs

    adaptation_of(subject)
    for file in clip or []:
        if not file.is_file():
            raise BadInputError(f"{file} is not a file; give the clip that was learned from")
    named = {file_sha256(file) for file in clip or []}
    params = load_params()
    folder = params.runtime.state / "jobs"
    registry, state = open_registry(params), params.runtime.state
    jobs = jobs_of(subject, folder, clips_of(subject, registry, state) | named)
    lock = lock_jobs(folder) if jobs else None

    def delete_jobs(_: frozenset[str]) -> int:
        for job in jobs:
            remove_tree(folder / job)
        return len(jobs)

    try:
        done = forget_adaptations(subject, registry, state, delete_jobs, named)
    finally:
        if lock is not None:
            lock.release()
    print(
        f"{subject}: {done.versions} registered versions, {done.adaptations} adaptations, {done.jobs} jobs, "
        f"{done.latents} latents deleted"
    )
