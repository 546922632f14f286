"""Runs: one per stage of the pipeline, with its parameters, curves, images, git commit and dvc.lock hash."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from mlflow.entities import Metric, Param, RunTag
from numpy.typing import NDArray

from datamodules.types import BadInputError
from modules.assets import ROOT
from services.registry.connection import Connection, RegistryConfig
from services.registry.errors import RegistryUnavailableError
from services.registry.outbox import Outbox, Record
from services.registry.store import log_model_folder

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

_PARAMS_PER_BATCH, _METRICS_PER_BATCH = 100, 1000
"""What MLflow takes in one request."""
_PAUSE = 60.0
"""Seconds until a registry that did not answer is asked again, so that a stage does not wait for every point."""
_log = logging.getLogger(__name__)


class Run:
    """A run that is being written; ``start_run`` makes it.

    What is logged never raises for the registry's sake: a stage that computed for an hour must not fail because
    nobody listens. What a registry that went away cannot take waits in the outbox, in order, with one warning.
    """

    def __init__(self, connection: Connection, run_id: str, outbox: Outbox) -> None:
        self.connection, self.run_id, self.outbox = connection, run_id, outbox
        self._ask_again = 0.0
        self._warned = False

    def log_metrics(self, metrics: Mapping[str, Any], step: int = 0) -> None:
        """Add a point at ``step`` to the curve of every metric; nested ones have dotted names."""
        now = int(time.time() * 1000)
        self.tell(Record("metrics", [[name, float(value), now, step] for name, value in flatten(metrics).items()]))

    def log_image(self, name: str, image: NDArray[np.uint8], step: int | None = None) -> None:
        """Keep an image ``(H, W, 3)`` uint8 RGB as ``images/NAME.png``, with the step in its name where given."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise TypeError(f"an image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / (f"{name}.png" if step is None else f"{name}-{step:07d}.png")
            file.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
            self.log_file(file, "images")

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Keep a file with the run, in ``folder`` of its artifacts."""
        self.tell(Record("file", folder, path))

    def log_model(self, folder: Path) -> None:
        """Keep a model folder as this run's model, which ``ModelStore.register_run`` registers."""
        self.tell(Record("model", None, folder))

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Keep parameters under dotted names; those the run has already (it was resumed) stay as they are."""
        self.tell(Record("params", {key: str(value) for key, value in flatten(params).items()}))

    def lightning_logger(self, before: str = "") -> Logger:
        """A Lightning logger that writes to this run; ``before`` stands before the name of each curve."""
        from services.registry.curves import CurveLogger

        return CurveLogger(self, before)

    def tell(self, record: Record, at_last: bool = False) -> None:
        """Send a record after those that wait, or let it wait too; ``at_last`` asks the registry in any case."""
        if at_last or time.monotonic() >= self._ask_again:
            try:
                if self.outbox.waits(self.run_id):
                    deliver(self.connection, self.outbox)
                _send(self.connection, self.run_id, record)
                return
            except (RegistryUnavailableError, OSError) as error:
                self._ask_again = time.monotonic() + _PAUSE
                if not self._warned:
                    _log.warning(
                        "%s; the stage goes on, what its run records waits in %s for the next stage's run",
                        error, self.outbox.folder,
                    )  # fmt: skip
                self._warned = True
        try:
            self.outbox.put(self.run_id, record)
        except OSError as error:
            _log.warning("a record (%s) of run %s is lost: %s", record.kind, self.run_id, error)


class SilentRun(Run):
    """A run that nobody hears of: that of the second and further processes of one training."""

    def __init__(self) -> None:
        self.run_id = ""

    def tell(self, record: Record, at_last: bool = False) -> None:
        """Nothing is told."""


@contextmanager
def start_run(
    stage: str,
    params: Mapping[str, Any],
    tracking_uri: str,
    config: RegistryConfig,
    unsent: Path,
    *,
    run_id: str | None = None,
    root: Path = ROOT,
) -> Iterator[Run]:
    """Open a run of a pipeline stage, or go on with ``run_id``; it ends as finished, failed or killed.

    ``params`` may be nested and may hold dataclasses. The commit and the sha256 of ``dvc.lock`` are taken from
    ``root`` where there are any. A run that the registry does not have any more is begun anew. ``unsent`` is the
    folder for what a registry that goes away later cannot take; what waits there from before is sent first.
    Raises ``RegistryUnavailableError`` where the registry does not answer now: nothing is computed yet.
    """
    connection = Connection(tracking_uri, config)
    outbox = Outbox(unsent / hashlib.sha256(tracking_uri.encode()).hexdigest()[:12])
    deliver(connection, outbox)
    tags = {"stage": stage, **provenance(root)}
    run = Run(connection, _open(connection, stage, tags, run_id), outbox)
    state = "FAILED"
    try:
        run.log_params(params)
        yield run
        state = "FINISHED"
    except KeyboardInterrupt:
        state = "KILLED"
        raise
    finally:
        run.tell(Record("end", [state, int(time.time() * 1000)]), at_last=True)


def deliver(connection: Connection, outbox: Outbox) -> None:
    """Send everything that waits. Raises ``RegistryUnavailableError``."""
    outbox.deliver(lambda run_id, record: _send(connection, run_id, record))


def _open(connection: Connection, stage: str, tags: Mapping[str, str], run_id: str | None) -> str:
    experiment = connection.experiment_id()
    if run_id is not None:
        try:
            with connection.reach() as client:
                client.update_run(run_id, status="RUNNING")
                client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
            return run_id
        except BadInputError as gone:
            _log.warning("run %s cannot be gone on with (%s); a new one is begun", run_id, gone)
    with connection.reach() as client:
        return str(client.create_run(experiment, run_name=stage, tags=dict(tags)).info.run_id)


def _send(connection: Connection, run_id: str, record: Record) -> None:
    """Tell the registry; what it refuses, because the run was deleted there, is dropped with a warning."""
    data, path = record.data, str(record.path)
    try:
        with connection.reach() as client:
            if record.kind == "params":
                known = client.get_run(run_id).data.params
                fresh = [Param(key, value) for key, value in data.items() if key not in known]
                for i in range(0, len(fresh), _PARAMS_PER_BATCH):
                    client.log_batch(run_id, params=fresh[i : i + _PARAMS_PER_BATCH])
            elif record.kind == "metrics":
                points = [Metric(*point) for point in data]
                for i in range(0, len(points), _METRICS_PER_BATCH):
                    client.log_batch(run_id, metrics=points[i : i + _METRICS_PER_BATCH])
            elif record.kind == "file":
                client.log_artifact(run_id, path, data)
            elif record.kind == "model":
                log_model_folder(client, connection.experiment_id(), run_id, Path(path))
            else:
                state, when = data
                client.set_terminated(run_id, state, end_time=when)
    except BadInputError as refused:
        _log.warning("the registry did not take a record (%s) of run %s: %s", record.kind, run_id, refused)


def provenance(root: Path = ROOT) -> dict[str, str]:
    """``git_commit``, ``git_dirty`` and ``dvc_lock_sha256`` of a checkout; what cannot be told is left out."""
    found = {}
    commit = _git(root, "rev-parse", "HEAD")
    if commit:
        found["git_commit"] = commit
        found["git_dirty"] = str(bool(_git(root, "status", "--porcelain", "--untracked-files=no"))).lower()
    lock = root / "dvc.lock"
    if lock.is_file():
        found["dvc_lock_sha256"] = hashlib.sha256(lock.read_bytes()).hexdigest()
    return found


def flatten(params: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and dataclasses as one level of dotted names."""
    if dataclasses.is_dataclass(params) and not isinstance(params, type):
        params = {field.name: getattr(params, field.name) for field in dataclasses.fields(params)}
    if not isinstance(params, Mapping):
        return {prefix: params}
    flat: dict[str, Any] = {}
    for key, value in params.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _git(root: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    run = subprocess.run([git, "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return run.stdout.strip() if run.returncode == 0 else None
