"""The receiver's metrics, summed over its processes where `server.serve` prepared for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from coursewire import exposition
from coursewire.metrics import OLDEST, SPOOL, WAITING
from coursewire.spool import Spool

BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.callbacks = Counter(
            "coursewire_callbacks",
            "Callbacks answered, by source (else `unknown`) and outcome (`accepted` or an error code)",
            ["source", "outcome"],
            registry=registry,
        )
        self.answer_seconds = Histogram(
            "coursewire_answer_seconds",
            "Seconds from a callback's headers to its answer",
            buckets=BUCKETS,
            registry=registry,
        )
        # All processes share one spool: the last to look knows best.
        self._waiting = Gauge(*WAITING, ["queue"], registry=registry, multiprocess_mode="mostrecent")
        self._oldest = Gauge(*OLDEST, ["queue"], registry=registry, multiprocess_mode="mostrecent")
        self._spool_bytes = Gauge(
            "coursewire_spool_bytes",
            "Bytes that wait in the spool (`spool_max_bytes` is the most)",
            registry=registry,
            multiprocess_mode="mostrecent",
        )

    def look_at(self, spool: Spool) -> None:
        """Called about every second. Raises `NotDurable` when the spool cannot be read."""
        size = spool.size()
        self._spool_bytes.set(size.bytes)
        self._waiting.labels(SPOOL).set(size.waiting)
        first = spool.oldest() if size.waiting else None
        age = (datetime.now(UTC) - first) / timedelta(seconds=1) if first else 0.0
        self._oldest.labels(SPOOL).set(max(age, 0.0))

    def text(self) -> bytes:
        return exposition.text(self.registry)
