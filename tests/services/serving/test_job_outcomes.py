"""How a step that raised ends its job."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.types import BadInputError
from services.registry.errors import RegistryUnavailableError
from services.serving.job_outcomes import BROKEN, failed
from services.serving.limits import INTERNAL_ERROR


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (BadInputError("/var/jobs/a/input is empty", 400), 400, "the upload is empty"),
        (
            RegistryUnavailableError("the registry at sqlite:////srv/an/var/mlflow.db cannot be reached (gone)"),
            503, "the registry at mlflow.db cannot be reached (gone)",
        ),
        (OSError(28, "No space left on device"), 507, "the server's disk is full; try again later"),
        (KeyError("/srv/anna"), 500, INTERNAL_ERROR),
    ],
)  # fmt: skip
def test_what_a_client_is_told(error: Exception, status: int, said: str) -> None:
    assert failed(error, [Path("/var/jobs/a/input")]) == BROKEN | {"error": said, "status": status}
