"""Which models answer a request: what an alias moves afterwards does not reach the request that holds them."""

from __future__ import annotations

from dataclasses import dataclass

from services.pipeline.models import Models


class NotReadyError(RuntimeError):
    """No models yet; the message is one line, the HTTP status is 503."""


@dataclass(frozen=True)
class ServedModel:
    """One model that answers."""

    name: str
    version: str
    """The registry's; of a shipped model, the start of its weights' hash."""
    alias: str | None
    """The registry's alias that it was loaded by."""
    generator_sha256: str
    source: str
    """``registry``, ``cache`` (the registry is down) or ``shipped``."""

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class Session:
    """The models of one moment."""

    models: Models
    served: tuple[ServedModel, ...]

    @property
    def header(self) -> str:
        """``name/version, name/version``."""
        return ", ".join(str(model) for model in self.served)


def shipped_model(name: str, sha256: str, generator_sha256: str) -> ServedModel:
    """A model that no registry knows."""
    return ServedModel(name, sha256[:12], None, generator_sha256, "shipped")
