"""The registry that ``params.runtime`` names."""

from __future__ import annotations

from services.registry.connection import RegistryConfig
from services.registry.promote import ModelRegistry
from services.settings import Params


def open_registry(params: Params) -> ModelRegistry:
    """The registry with its cache in ``runtime.state``; nothing is connected to yet."""
    runtime = params.runtime
    runtime.state.mkdir(parents=True, exist_ok=True)
    return ModelRegistry(runtime.tracking(), runtime.state / "models", params.section("registry", RegistryConfig))
