"""What a job's report has of the sidecar that the shell writes: what is needed to make its clip again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.pipeline.models import Models
from services.version import version


def reproduction(given: Mapping[str, Any], models: Models, more: Mapping[str, Any]) -> dict[str, Any]:
    """Version, input, hashes of models, params; ``given`` is the input as ``described``, ``more`` further params.

    Clients learn neither what files are called here nor where they lie: the weights that params name lose their
    folder, clips that a face was learned from their name, too. Their hashes say what they are.
    """
    params = models.numbers() | dict(more)
    learned_from = params.get("learned_from")
    if isinstance(learned_from, Mapping) and isinstance(learned_from.get("source"), Mapping):
        params["learned_from"] = {**learned_from, "source": _nameless(learned_from["source"])}
    return {
        "stylereel": version(),
        "input": _nameless(given),
        "hashes": dict(models.versions),
        "params": _without_folders(params),
    }


def _nameless(file: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in file.items() if key != "name"}


def _without_folders(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return value.rpartition("/")[2] if isinstance(value, str) else value
