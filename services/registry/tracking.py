"""Runs: one per stage of the pipeline, with its parameters, curves, images, git commit and dvc.lock hash."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mlflow.entities import Metric, Param, RunTag
from numpy.typing import NDArray

from modules.assets import ROOT
from services.registry.connection import Connection, RegistryConfig
from services.registry.store import log_model_folder

if TYPE_CHECKING:
    from lightning.pytorch.loggers import MLFlowLogger

_PARAMS_PER_BATCH, _METRICS_PER_BATCH = 100, 1000
"""What MLflow takes in one request."""


class Run:
    """A run that is being written; ``start_run`` makes it."""

    def __init__(self, connection: Connection, run_id: str) -> None:
        self.connection = connection
        self.run_id = run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Add a point at ``step`` to the curve of every metric."""
        self._log_points([(name, value, step) for name, value in metrics.items()])

    def log_curve(self, name: str, values: Sequence[float], first_step: int = 0) -> None:
        """Add a whole curve, one value per step."""
        self._log_points([(name, value, first_step + i) for i, value in enumerate(values)])

    def log_image(self, name: str, image: NDArray[np.uint8], step: int | None = None) -> None:
        """Keep an image ``(H, W, 3)`` uint8 RGB as ``images/NAME.png``, with the step in its name where given."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise TypeError(f"an image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        file = f"images/{name}.png" if step is None else f"images/{name}-{step:07d}.png"
        with self.connection.reach() as client:
            client.log_image(self.run_id, image, file)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Keep a file with the run, in ``folder`` of its artifacts."""
        with self.connection.reach() as client:
            client.log_artifact(self.run_id, str(path), folder)

    def log_model(self, folder: Path) -> str:
        """Keep a model folder as this run's model, which ``ModelStore.register_run`` registers; returns its id."""
        experiment = self.connection.experiment_id()
        with self.connection.reach() as client:
            return log_model_folder(client, experiment, self.run_id, folder)

    def lightning_logger(self) -> MLFlowLogger:
        """A Lightning logger that writes to this run."""
        from lightning.pytorch.loggers import MLFlowLogger

        # Checkpoints are no models and stay out of the registry: log_model=False.
        return MLFlowLogger(
            experiment_name=self.connection.config.experiment,
            tracking_uri=self.connection.uri,
            run_id=self.run_id,
            log_model=False,
        )

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Keep parameters under dotted names; those the run has already (it was resumed) stay as they are."""
        with self.connection.reach() as client:
            known = client.get_run(self.run_id).data.params
            fresh = [Param(key, str(value)) for key, value in flatten(params).items() if key not in known]
            for i in range(0, len(fresh), _PARAMS_PER_BATCH):
                client.log_batch(self.run_id, params=fresh[i : i + _PARAMS_PER_BATCH])

    def _log_points(self, points: Sequence[tuple[str, float, int]]) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, value, step in points]
        with self.connection.reach() as client:
            for i in range(0, len(metrics), _METRICS_PER_BATCH):
                client.log_batch(self.run_id, metrics=metrics[i : i + _METRICS_PER_BATCH])


@contextmanager
def start_run(
    stage: str,
    params: Mapping[str, Any],
    tracking_uri: str,
    config: RegistryConfig,
    *,
    tags: Mapping[str, str] | None = None,
    run_id: str | None = None,
    root: Path = ROOT,
) -> Iterator[Run]:
    """Open a run of a pipeline stage, or go on with ``run_id``; it ends as finished, failed or killed.

    ``params`` may be nested and may hold dataclasses. The commit and the sha256 of ``dvc.lock`` are taken
    from ``root`` where there are any. Raises ``RegistryUnavailableError``.
    """
    connection = Connection(tracking_uri, config)
    experiment = connection.experiment_id()
    named = {"stage": stage, **provenance(root), **(tags or {})}
    with connection.reach() as client:
        if run_id is None:
            run_id = client.create_run(experiment, run_name=stage, tags=named).info.run_id
        else:
            client.update_run(run_id, status="RUNNING")
            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in named.items()])
    run = Run(connection, run_id)
    state = "FAILED"
    try:
        run.log_params(params)
        yield run
        state = "FINISHED"
    except KeyboardInterrupt:
        state = "KILLED"
        raise
    finally:
        with connection.reach() as client:
            client.set_terminated(run_id, state)


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
