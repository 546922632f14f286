"""How a job ended, as its workflow keeps it: ``state`` and, where it failed, one line and its HTTP status."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.disk import is_disk_full
from datamodules.types import BadInputError
from modules.out_of_memory import is_out_of_memory
from services.registry.errors import RegistryUnavailableError
from services.serving.limits import DISK_FULL, INTERNAL_ERROR, OUT_OF_MEMORY, public_message

SUCCEEDED: dict[str, Any] = {"state": "succeeded"}
CANCELLED: dict[str, Any] = {"state": "cancelled"}
BROKEN: dict[str, Any] = {"state": "failed", "error": INTERNAL_ERROR, "status": 500}


def failed(error: Exception, uploads: Sequence[Path]) -> dict[str, Any]:
    """The outcome of a step that raised; ``uploads`` are not called by their names."""
    if is_disk_full(error):
        return BROKEN | {"error": DISK_FULL, "status": 507}
    if isinstance(error, BadInputError):
        return BROKEN | {"error": public_message(error, uploads), "status": error.status}
    if isinstance(error, RegistryUnavailableError):
        return BROKEN | {"error": public_message(error, uploads), "status": 503}
    if is_out_of_memory(error):
        return BROKEN | {"error": OUT_OF_MEMORY, "status": 507}
    return BROKEN
