"""Video jobs as durable workflows: a killed server takes its jobs up again at its next start.

Each job is a folder (``request.json``, ``input``, ``work``, ``starts.json``, ``progress.json``, ``output.mp4``,
``report.json``) and a DBOS workflow of the same id, whose steps are analyse, render and finish. A step may run
twice: it writes beside its target and renames.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from dbos import DBOS, SetWorkflowID, WorkflowStatus
from sqlalchemy.exc import SQLAlchemyError

from datamodules.disk import is_disk_full, remove_tree
from datamodules.types import BadInputError
from services.progress import CancelledError
from services.serving.job import Editor, Job, Kind, State, kind_of
from services.serving.job_folder import (
    CLIP,
    JOB_ID,
    WORK,
    count_start,
    forget_starts,
    is_cancelled,
    note_progress,
    read_json,
    remove_rest,
    write_json,
    write_request,
)
from services.serving.job_leftovers import DELETED, UPLOAD, is_torn, remove, remove_leftovers
from services.serving.job_library import LIBRARY_LOG, CancelledQuietly, library_config
from services.serving.job_measures import JobMeasures
from services.serving.job_outcomes import BROKEN, CANCELLED, SUCCEEDED, failed
from services.serving.jobs_lock import lock_jobs
from services.serving.limits import public_message
from services.serving.private_folder import private_folder
from services.serving.turns import BusyError, Turns

log = logging.getLogger("stylereel.jobs")

QUEUE = "stylereel-videos"
WORKFLOW = "edit-clip"
LOST_AFTER = 60.0
"""Seconds after which a job that stands as running and has no thread is queued again; threads start at once."""
PROGRESS_EVERY = 0.25
"""Seconds between two writes of ``progress.json``."""
FULL_RETRY_SECONDS = 60
"""After how long it is worth asking again where no more jobs are taken."""
_UNFINISHED: dict[str, Literal["queued", "running"]] = {
    "ENQUEUED": "queued",
    "DELAYED": "queued",
    "PENDING": "running",
}
_STATES: dict[str, State] = {**_UNFINISHED, "CANCELLED": "cancelled"}


class _Interrupted(BaseException):
    """The server stops; the job is to be taken up again."""


_active: list[Jobs] = []
# DBOS is one per process, so are the workflows and the jobs that they work on.


# DBOS would count orderly stops of the server among the recoveries; ``run`` counts the others.
@DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)
def _edit_clip(job: str) -> dict[str, Any]:
    with _active[0].at_work(job) as ends:
        for step in (_analyse, _render, _finish):
            outcome = step(job)
            if outcome is not None:
                break
        else:
            outcome = SUCCEEDED
        ends(outcome["state"])
        return outcome


@DBOS.step(name="analyse")
def _analyse(job: str) -> dict[str, Any] | None:
    return _active[0].run(job, _active[0].analyse)


@DBOS.step(name="render")
def _render(job: str) -> dict[str, Any] | None:
    return _active[0].run(job, _active[0].render)


@DBOS.step(name="finish")
def _finish(job: str) -> dict[str, Any] | None:
    return _active[0].run(job, _active[0].finish)


class Jobs:
    """The jobs of one server."""

    def __init__(
        self,
        folder: Path,
        editor: Editor,
        turns: Turns,
        keep_hours: float,
        poll_seconds: float,
        max_jobs: int | None = None,
    ) -> None:
        """Start DBOS on ``folder/jobs.db``; jobs that a killed server left go on by themselves.

        What else it left is removed. ``poll_seconds`` is how often the queue is looked at; ``max_jobs`` may be
        queued or running, any number without one. Raises ``BadInputError`` where the disk is full, and where
        another server works on the folder: two would run the same jobs.
        """
        if _active:
            raise RuntimeError("the jobs of this process are already running")
        self.folder = private_folder(folder)
        self._lock = lock_jobs(folder)
        remove_leftovers(folder)
        self._editor = editor
        self._turns = turns
        self._keep_seconds = keep_hours * 3600
        self._closing = threading.Event()
        self._at_work: set[str] = set()
        self._uploads: set[Path] = set()
        self._max_jobs = max_jobs
        self._queueing = threading.Lock()
        self.measures = JobMeasures()
        self._quiet = CancelledQuietly(folder)
        _active.append(self)
        try:
            LIBRARY_LOG.addFilter(self._quiet)
            DBOS(config=library_config(folder))
            DBOS.launch()
            DBOS.register_queue(QUEUE, worker_concurrency=1, polling_interval_sec=poll_seconds)
        except BaseException as error:
            self._let_go()
            if is_disk_full(error):
                raise BadInputError(
                    f"no space is left for the jobs in {folder}; free some, the server tries to start again", 507
                ) from None
            raise

    def close(self) -> None:
        """Stop; a running job stops at its next look at ``cancelled`` and goes on at the next start."""
        self._closing.set()
        for job in tuple(self._at_work):  # the process may end before their threads do
            forget_starts(self.folder / job)
        self._let_go()

    def _let_go(self) -> None:
        DBOS.destroy(workflow_completion_timeout_sec=0)
        LIBRARY_LOG.removeFilter(self._quiet)
        _active.clear()
        self._lock.release()

    def place_for_upload(self) -> Path:
        """A new file name inside the folder of the jobs; counts as a job until ``submit`` or ``drop`` takes it.

        Raises ``BusyError``.
        """
        upload = self.folder / f"{UPLOAD}{secrets.token_hex(16)}"
        with self._queueing:
            self.check_room()
            self._uploads.add(upload)
        return upload

    def drop(self, upload: Path) -> None:
        """Forget a file from ``place_for_upload``, if ``submit`` has not taken it over."""
        self._uploads.discard(upload)
        upload.unlink(missing_ok=True)

    def submit(self, upload: Path, request: dict[str, Any]) -> Job:
        """Queue a job for a file from ``place_for_upload``; ``request`` is what ``Editor.render`` gets (JSON).

        Raises ``BadInputError`` for a clip that is not taken, and ``BusyError``; the upload is gone either way.
        """
        job = secrets.token_hex(16)
        folder = self.folder / job
        try:
            self._editor.check(request)
            try:
                self._editor.analyse(upload, request)
            except BadInputError as error:
                raise BadInputError(public_message(error, [upload]), error.status) from error
            with self._queueing:  # of two that come together only one may take the last place
                self._uploads.discard(upload)
                self.check_room()
                folder.mkdir()
                os.replace(upload, folder / CLIP)
                write_request(folder, request)
                with SetWorkflowID(job):
                    DBOS.enqueue_workflow(QUEUE, _edit_clip, job)
        except BaseException:
            upload.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return self.get(job)

    def unfinished(self) -> dict[Literal["queued", "running"], int]:
        """How many jobs are not over."""
        counts: dict[Literal["queued", "running"], int] = dict.fromkeys(("queued", "running"), 0)
        for workflow in _listed(list(_UNFINISHED)):
            counts[_UNFINISHED[workflow.status]] += 1
        return counts

    def check_room(self) -> None:
        """Raise ``BusyError`` where as many jobs as are taken are not over, or on their way in."""
        taken = sum(self.unfinished().values()) + len(self._uploads)
        if self._max_jobs is not None and taken >= self._max_jobs:
            raise BusyError(f"{self._max_jobs} jobs are queued or running; try again later", FULL_RETRY_SECONDS)

    def get(self, job: str) -> Job:
        """Raises ``KeyError`` for an id that is not known, or no longer."""
        if not JOB_ID.fullmatch(job):
            raise KeyError(job)
        folder = self.folder / job
        workflow = DBOS.get_workflow_status(job)
        request = read_json(folder / "request.json")
        if workflow is None or request is None:
            raise KeyError(job)
        outcome: dict[str, Any] = workflow.output or {}
        state = _STATES.get(workflow.status, "failed")
        if workflow.status == "SUCCESS":
            state = outcome["state"]
        elif state == "failed":
            outcome = BROKEN
        progress = read_json(folder / "progress.json") or {"stage": "queued", "progress": 0.0}
        done = state == "succeeded"
        return Job(
            id=job,
            state=state,
            stage=progress["stage"],
            progress=progress["progress"],
            error=outcome.get("error") if state == "failed" else None,
            status=outcome.get("status") if state == "failed" else None,
            created=request["created"],
            output=folder / "output.mp4" if done else None,
            report=read_json(folder / "report.json") if done else None,
        )

    def cancel(self, job: str) -> Job:
        """Stop a job that is queued or running; one that is over stays as it is. Raises ``KeyError``."""
        if self.get(job).state in ("queued", "running"):
            try:
                (self.folder / job / "cancelled").touch()
            except FileNotFoundError as gone:  # deleted since
                raise KeyError(job) from gone
            DBOS.cancel_workflow(job)
            if job not in self._at_work:  # else its thread removes it, and says that it ended
                remove_rest(self.folder / job)
                self.measures.ends(job, self._kind(job), "cancelled")
        return self.get(job)

    def delete(self, job: str) -> None:
        """Cancel the job and remove its input, output and report. Raises ``KeyError``."""
        self.cancel(job)
        # Moved away in one go, so that a step that is still stopping finds no folder to write into.
        grave = self.folder / f"{DELETED}{job}"
        try:
            os.replace(self.folder / job, grave)
        except FileNotFoundError as gone:  # by whoever else deleted it
            raise KeyError(job) from gone
        DBOS.delete_workflow(job)
        remove_tree(grave)

    def sweep(self) -> list[str]:
        """Delete jobs that ended before the retention time, and leftovers of crashes; returns the jobs' ids.

        Jobs that stand as running and do not run are queued again.
        """
        before = time.time() - self._keep_seconds
        swept = []
        for path in sorted(self.folder.iterdir()):
            try:
                if path.stat().st_mtime < before and self._swept(path):
                    swept.append(path.name)
                elif (path / WORK).is_dir() or (path / CLIP).is_file():
                    self._remove_unneeded(path)
            except (OSError, BadInputError, SQLAlchemyError):
                log.exception("cannot remove what %s no longer needs", path.name)  # the others still can
        self._queue_lost()
        return swept

    def _swept(self, path: Path) -> bool:
        """Remove one old entry of the folder; True where it was a job's."""
        if is_torn(path):
            remove(path)
            return False
        if not JOB_ID.fullmatch(path.name):
            return False
        try:
            if self.get(path.name).state in ("queued", "running"):
                return False
            self.delete(path.name)
        except KeyError:
            # The server died between making the folder and queueing the job, or while it wrote.
            shutil.rmtree(path)
        return True

    def _remove_unneeded(self, path: Path) -> None:
        """Of a job that failed, once DBOS has noted it; and of others where the server was killed."""
        with suppress(KeyError):
            if self.get(path.name).state not in ("queued", "running") and path.name not in self._at_work:
                remove_rest(path)

    def _queue_lost(self) -> None:
        """DBOS cannot write to a full disk how a step ended: the thread ends, and the job stands as running."""
        before = (time.time() - LOST_AFTER) * 1000
        for workflow in _listed(["PENDING"]):
            job = workflow.workflow_id
            if job not in self._at_work and (workflow.updated_at or 0) < before:
                log.warning("job %s stands as running and does not run; it is queued again", job)
                DBOS.resume_workflow(job, queue_name=QUEUE)

    @contextmanager
    def at_work(self, job: str) -> Iterator[Callable[[State], None]]:
        """Inside the ``with`` block a thread of this server works on the job; it calls what it gets at the end."""
        kind, state = self._kind(job), list[State](["running"])
        self._at_work.add(job)
        self.measures.begins(job, kind)
        try:
            yield state.append
        finally:
            self._at_work.discard(job)
            folder = self.folder / job
            if is_cancelled(folder):  # DBOS may have ended it between two steps
                state.append("cancelled")
                remove_rest(folder)
            self.measures.ends(job, kind, state[-1])

    def _kind(self, job: str) -> Kind:
        return kind_of(read_json(self.folder / job / "request.json") or {})

    def run(self, job: str, step: Callable[[Path], None]) -> dict[str, Any] | None:
        """Run one step; None where the job goes on, and its outcome where something went wrong."""
        try:
            outcome = self._outcome(job, step)
        finally:
            forget_starts(self.folder / job)
        if outcome is not None:  # the clip stays until DBOS has noted it: on a full disk it is begun again
            shutil.rmtree(self.folder / job / WORK, ignore_errors=True)
        return outcome

    def _outcome(self, job: str, step: Callable[[Path], None]) -> dict[str, Any] | None:
        folder = self.folder / job
        try:
            count_start(folder)
            step(folder)
        except CancelledError:
            return CANCELLED
        except Exception as error:
            if not isinstance(error, BadInputError):
                if self._closing.is_set():
                    raise _Interrupted from error
                if not folder.exists():
                    return CANCELLED  # deleted under the step
                log.exception("job %s failed", job, extra={"job": job})
            return failed(error, [folder / "output.part.mp4", folder / CLIP])
        return None

    def analyse(self, folder: Path) -> None:
        """First step: look at the clip."""
        note_progress(folder, "analyse", 0.0)
        request = read_json(folder / "request.json")
        if request is None:
            raise CancelledError
        write_json(folder / "clip.json", self._editor.analyse(folder / CLIP, request))
        note_progress(folder, "analyse", 1.0)

    def render(self, folder: Path) -> None:
        """Second step: edit the clip, one job at a time, letting image requests through between chunks."""
        last, shown = 0.0, ""

        def report(stage: str, progress: float) -> None:
            nonlocal last, shown
            if time.monotonic() - last >= PROGRESS_EVERY or progress >= 1.0 or stage != shown:
                last, shown = time.monotonic(), stage
                note_progress(folder, stage, progress)

        def cancelled() -> bool:
            self._turns.give_way()
            return self._closing.is_set() or is_cancelled(folder)

        request = read_json(folder / "request.json")
        if request is None:
            raise CancelledError
        part = folder / "output.part.mp4"
        with self._turns.turn():
            if cancelled():
                raise _Interrupted if self._closing.is_set() else CancelledError
            try:
                outcome = self._editor.render(folder / CLIP, part, request, report, cancelled)
            except CancelledError:
                if self._closing.is_set():
                    raise _Interrupted from None
                raise
        write_json(folder / "report.json", outcome)
        os.replace(part, folder / "output.mp4")

    def finish(self, folder: Path) -> None:
        """Last step."""
        remove_rest(folder)
        note_progress(folder, "finish", 1.0)


def _listed(status: list[str]) -> list[WorkflowStatus]:
    return DBOS.list_workflows(status=status, name=WORKFLOW, load_input=False, load_output=False)
