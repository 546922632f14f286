"""What the log and ``/metrics`` say of video jobs: when one begins and ends, how many, and how long they take."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.serving.job import Kind, State

log = logging.getLogger("stylereel.jobs")

JOB_SECONDS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 14400.0)
"""Upper ends of the buckets."""
_OUTCOMES: Mapping[State, str] = {"succeeded": "done", "failed": "failed", "cancelled": "cancelled"}
_REMEMBERED = 256
"""Ended jobs that are still known by their ids: whoever cancels one and its thread may both say that it ended."""


class JobMeasures:
    """Counts since the server's start; time is that of the server which ended a job, not of those before it."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ["kind", "outcome"]
        self._count = Counter(
            "stylereel_jobs_ended", "Jobs by what they did and how they ended.", labels, registry=self._registry
        )
        self._seconds = Histogram(
            "stylereel_job_seconds",
            "Time from the beginning of a job's work to its end.",
            labels,
            registry=self._registry,
            buckets=JOB_SECONDS,
        )
        self._begun: dict[str, float] = {}
        self._ended: deque[str] = deque(maxlen=_REMEMBERED)

    def begins(self, job: str, kind: Kind) -> None:
        """Note that a thread begins to work on a job, or goes on with it."""
        self._begun[job] = time.monotonic()
        log.info("job %s begins: %s", job, kind, extra={"job": job, "kind": kind, "state": "running"})

    def ends(self, job: str, kind: Kind, state: State) -> None:
        """Count a job that ``succeeded``, ``failed`` or was ``cancelled``; in any other state it goes on later.

        A job counts once, whoever says so.
        """
        began = self._begun.pop(job, None)
        about: dict[str, object] = {"job": job, "kind": kind, "state": state}
        if state not in _OUTCOMES:
            log.info("job %s stops and goes on later", job, extra=about)
            return
        if job in self._ended:
            return
        self._ended.append(job)
        labels = kind, _OUTCOMES[state]
        self._count.labels(*labels).inc()
        if began is None:
            log.info("job %s ends: %s, %s before it began", job, kind, state, extra=about)
            return
        seconds = round(time.monotonic() - began, 3)
        self._seconds.labels(*labels).observe(seconds)
        message = "job %s ends: %s, %s after %.1f s"
        log.info(message, job, kind, state, seconds, extra=about | {"seconds": seconds})

    def text(self, unfinished: Mapping[Literal["queued", "running"], int]) -> bytes:
        """The part of the page that is about jobs."""
        now = CollectorRegistry()
        now.register(_Now(unfinished))
        return generate_latest(self._registry) + generate_latest(now)


class _Now(Collector):
    """What is read when it is asked for."""

    def __init__(self, unfinished: Mapping[Literal["queued", "running"], int]) -> None:
        self._unfinished = unfinished

    def collect(self) -> Iterator[GaugeMetricFamily]:
        jobs = GaugeMetricFamily("stylereel_jobs", "Jobs that are not over, by state.", labels=["state"])
        for state, count in self._unfinished.items():
            jobs.add_metric([state], count)
        yield jobs
