"""The receiver's metrics, summed over its processes where `server.serve` prepared for it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.callbacks = Counter(
            "coursewire_callbacks",
            "By source (`unknown` where none is configured) and outcome (`accepted` or an error code)",
            ["source", "outcome"],
            registry=self._registry,
        )
        self.answer_seconds = Histogram(
            "coursewire_answer_seconds",
            "Seconds from a callback's headers to its answer",
            buckets=BUCKETS,
            registry=self._registry,
        )

    def text(self) -> bytes:
        if not values.ValueClass._multiprocess:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
