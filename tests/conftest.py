"""What every test runs under: few threads, a state folder of its own, and nobody told about it."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from services.memory import keep_freed_memory

# A deadline is a time that a test asserts.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

_HOME = tempfile.TemporaryDirectory(prefix="stylereel-tests-")
_METRICS = Path(_HOME.name) / "prometheus"
_METRICS.mkdir()
# As every command and the service do: renderings with gradients take two thirds of the time.
keep_freed_memory()
# Two workers share two cores; each has folders of its own, not those that it inherits from whoever started it.
_THREADS = "1" if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1 else "2"
# Before torch, BentoML and MLflow are imported: they read these once.
_DEFAULTS = {
    "STYLEREEL_DEVICE": "cpu",
    "BENTOML_DO_NOT_TRACK": "True",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
}
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)
os.environ |= {"OMP_NUM_THREADS": _THREADS, "MKL_NUM_THREADS": _THREADS}
# Whatever the user has set: no test writes to a registry or a state that is not its own.
os.environ |= {
    "STYLEREEL_STATE": str(Path(_HOME.name) / "state"),
    "PROMETHEUS_MULTIPROC_DIR": str(_METRICS),  # without it BentoML's /metrics hangs
    "BENTOML_HOME": str(Path(_HOME.name) / "bentoml"),
}
for _name in ("STYLEREEL_TRACKING_URI", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
    os.environ.pop(_name, None)


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> Iterator[None]:
    import torch

    torch.set_num_threads(int(_THREADS))
    yield
    _HOME.cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first: of two workers neither is to wait for the other in the end."""
    items.sort(key=lambda item: item.path.name != "test_repro.py")
