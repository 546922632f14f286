"""DBOS as the jobs use it: its database, and what it logs of jobs that somebody cancelled or deleted."""

from __future__ import annotations

import logging
from pathlib import Path

from dbos import DBOSConfig, DBOSPortableJSONSerializer
from dbos import error as dbos_error

from services.serving.job_folder import JOB_ID, is_cancelled
from services.serving.logs import JOBS_LIBRARY

LIBRARY_LOG = logging.getLogger(JOBS_LIBRARY)


def library_config(folder: Path) -> DBOSConfig:
    """DBOS on ``folder/jobs.db``."""
    return {
        "name": "stylereel",
        "system_database_url": f"sqlite:///{folder.resolve() / 'jobs.db'}",
        "serializer": DBOSPortableJSONSerializer(),
        # Fixed: by default it hashes the workflows' source, and jobs of another hash are not taken up.
        "application_version": "1",
        "executor_id": "stylereel",
        "log_level": "WARNING",
        "notification_listener_polling_interval_sec": 1.0,
    }


class CancelledQuietly(logging.Filter):
    """Drops what DBOS says of a job that was cancelled or deleted: a warning, then a traceback."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is that of the jobs."""
        super().__init__()
        self._folder = folder

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        error = record.exc_info[1] if record.exc_info else None
        job = None
        if isinstance(error, dbos_error.DBOSAwaitedWorkflowCancelledError):
            job = error.workflow_id
        elif isinstance(error, dbos_error.DBOSNonExistentWorkflowError):
            job = error.destination_id
        elif error is None and record.levelno == logging.WARNING and (named := JOB_ID.search(record.getMessage())):
            job = named[0]
        return job is None or not is_cancelled(self._folder / job)
