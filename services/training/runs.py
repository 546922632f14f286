"""A stage of ``dvc.yaml`` as one run in MLflow, with the sections of ``params.yaml`` that the stage depends on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from services.code_hash import PACKAGES, python_sha256
from services.registry.connection import RegistryConfig
from services.registry.tracking import Run, SilentRun, start_run
from services.settings import ROOT, Params

RUN_ID = "run_id"
"""File in the folder of a training that is not done: the run in MLflow that a later start goes on with."""
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""Where launchers of several processes tell each its number."""


@contextmanager
def stage_run(
    stage: str, params: Params, more: Mapping[str, Any] | None = None, run_id: str | None = None
) -> Iterator[Run]:
    """Open the run of a stage, named after it; its ``seconds`` are logged where it succeeds.

    ``more`` are further parameters; ``run_id`` is a run to go on with. Only the first process of a training with
    several devices opens one. Raises ``RegistryUnavailableError`` before anything is computed.
    """
    if next((os.environ[name] for name in _RANKS if name in os.environ), "0") != "0":
        yield SilentRun()
        return
    runtime = params.runtime
    registry = params.section("registry", RegistryConfig)
    given = {**{name: params.raw[name] for name in sections_of(stage)}, **(more or {})}
    started = time.monotonic()
    with start_run(stage, given, runtime.tracking(), registry, runtime.state / "unsent", run_id=run_id) as run:
        yield run
        run.log_metrics({"seconds": time.monotonic() - started})


@contextmanager
def training_run(stage: str, params: Params, more: Mapping[str, Any], folder: Path) -> Iterator[Run]:
    """``stage_run`` of the training in ``folder``: killed or failed, and gone on with, it stays one run.

    Where the block ends well the run is done, and a later call, which may measure anew, has a run of its own.
    """
    known = folder / RUN_ID
    with stage_run(stage, params, more, known.read_text() if known.is_file() else None) as run:
        folder.mkdir(parents=True, exist_ok=True)
        if run.run_id:
            known.write_text(run.run_id)
        yield run
    if run.run_id:
        known.unlink(missing_ok=True)


def sections_of(stage: str) -> list[str]:
    """The sections of ``params.yaml`` that ``dvc.yaml`` names for a stage."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return list(stages[stage].get("params", []))


def code_sha256(stage: str) -> str:
    """Of the code that ``dvc.yaml`` names for a stage: a training that other code began is not gone on with."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return python_sha256([ROOT / dep for dep in stages[stage]["deps"] if dep.split("/")[0] in PACKAGES], ROOT)
