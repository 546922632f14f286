"""What ``/metrics`` shows: requests by route, the queue, and the models that answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST


class Model(Protocol):
    """What is shown of a model."""

    @property
    def name(self) -> str:
        """Of the registry."""

    @property
    def version(self) -> str:
        """Of the registry, or the start of a hash."""

    @property
    def alias(self) -> str | None:
        """That it was loaded by."""

    @property
    def source(self) -> str:
        """Where it came from."""


MEDIA_TYPE = CONTENT_TYPE_LATEST


class Measures:
    """One set of metrics per app.

    Requests are counted by route, not by path: ids and the names that scanners try would each make a series
    that is never dropped.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "stylereel_requests",
            "Requests by route and status.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "stylereel_request_seconds", "Time to the end of the answer.", ["route"], registry=self._registry
        )
        self._waiting = Gauge("stylereel_waiting", "Who waits for the device.", registry=self._registry)
        self._notes = Gauge("stylereel_notes", "Things that are not as they should be.", registry=self._registry)
        self._models = Gauge(
            "stylereel_model_info",
            "1 for each model that answers.",
            ["name", "version", "alias", "source"],
            registry=self._registry,
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self, models: Iterable[Model], waiting: int, notes: int) -> bytes:
        """The whole page."""
        self._waiting.set(waiting)
        self._notes.set(notes)
        self._models.clear()
        for model in models:
            self._models.labels(model.name, model.version, model.alias or "", model.source).set(1)
        return generate_latest(self._registry)
