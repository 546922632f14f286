"""What ``/metrics`` shows of requests: how many by route, who waits, and the models that answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector


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
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Others are counted as one, ``other``: a client may invent as many as it likes."""
REQUEST_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper ends of the buckets; a request may wait for ``runtime.request_seconds`` and compute as long again."""


def known_method(method: str) -> str:
    """The method of a request where it is one of HTTP's, else ``other``."""
    return method if method in METHODS else "other"


class Measures:
    """One set of metrics per app.

    Requests are counted by route, not by path: ids and the names that scanners try would each make a series
    that is never dropped; so would methods that nobody knows.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ["method", "route", "status"]
        self._requests = Counter(
            "stylereel_requests", "Requests by route and status.", labels, registry=self._registry
        )
        self._seconds = Histogram(
            "stylereel_request_seconds",
            "Time to the end of the answer.",
            ["route"],
            registry=self._registry,
            buckets=REQUEST_SECONDS,
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests.labels(known_method(method), route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self, models: Iterable[Model], waiting: int, notes: int) -> bytes:
        """The whole page."""
        now = CollectorRegistry()
        now.register(_Now(list(models), waiting, notes))
        return generate_latest(self._registry) + generate_latest(now)


class _Now(Collector):
    """What is read when it is asked for; a model that no longer answers leaves no series behind."""

    def __init__(self, models: list[Model], waiting: int, notes: int) -> None:
        self._models, self._waiting, self._notes = models, waiting, notes

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily("stylereel_waiting", "Who waits for the device.", value=self._waiting)
        yield GaugeMetricFamily("stylereel_notes", "Things that are not as they should be.", value=self._notes)
        labels = ["name", "version", "alias", "source"]
        info = GaugeMetricFamily("stylereel_model_info", "1 for each model that answers.", labels=labels)
        for model in self._models:
            info.add_metric([model.name, model.version, model.alias or "", model.source], 1)
        yield info
