"""What every test runs under: few threads, a state folder of its own, and nobody told about it."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A deadline is a time that a test asserts.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

_HOME = tempfile.TemporaryDirectory(prefix="stylereel-tests-")
_METRICS = Path(_HOME.name) / "prometheus"
_METRICS.mkdir()
# Before torch, BentoML and MLflow are imported: they read these once.
_DEFAULTS = {
    "OMP_NUM_THREADS": "2",
    "MKL_NUM_THREADS": "2",
    "STYLEREEL_DEVICE": "cpu",
    "PROMETHEUS_MULTIPROC_DIR": str(_METRICS),  # without it BentoML's /metrics hangs
    "BENTOML_HOME": str(Path(_HOME.name) / "bentoml"),
    "BENTOML_DO_NOT_TRACK": "True",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
}
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)
# Whatever the user has set: no test writes to a registry or a state that is not its own.
os.environ["STYLEREEL_STATE"] = str(Path(_HOME.name) / "state")
for _name in ("STYLEREEL_TRACKING_URI", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
    os.environ.pop(_name, None)


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> Iterator[None]:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    yield
    _HOME.cleanup()
