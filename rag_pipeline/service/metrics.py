"""What the service counts about itself, for Prometheus."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)

GONE = 499
"""The status of a request whose client went away before it was answered, as nginx counts it. Nobody is told of it."""


class Metrics:
    """The metrics of one application, or of all workers that keep theirs in one folder.

    The client library keeps them in files if the process began with PROMETHEUS_MULTIPROC_DIR, which `workers` sets.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "rag_requests", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "rag_request_seconds",
            "Seconds by route, of requests that were let in and answered.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.stages = Histogram(
            "rag_search_stage_seconds",
            "Seconds of a search that was made, by stage.",
            ["stage"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.cache = Counter(
            "rag_search_cache",
            "Searches answered from search_cache (hit) or made (miss).",
            ["result"],
            registry=self._registry,
        )
        self.waiting = Gauge(
            "rag_searches_waiting",
            "Searches that wait for others.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        if self._folder is None:
            return generate_latest(self._registry)
        of_all = CollectorRegistry()
        MultiProcessCollector(of_all, str(self._folder))
        return generate_latest(of_all)
