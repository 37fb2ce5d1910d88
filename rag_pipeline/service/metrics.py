"""What the service counts about itself, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """The metrics of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "rag_requests", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "rag_request_seconds", "Seconds by route.", ["route"], buckets=_SECONDS, registry=self._registry
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
        self.waiting = Gauge("rag_searches_waiting", "Searches that wait for others.", registry=self._registry)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
