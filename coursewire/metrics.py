"""The metrics of every process but the receiver's own; docs/metrics.md lists all.

Counted is only what is committed. A label is a configured name or one of our codes, never a word of a
callback. Where several processes share their metrics, these are made after `exposition.share`.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from coursewire.hints import INGEST, handler_queue

if TYPE_CHECKING:
    # The receiver shares names of metrics with the others, and nothing of the ledger.
    from coursewire.ledger.backlog import Backlog
    from coursewire.ledger.receipts import Written

# For a name that this process has not in its configuration.
UNKNOWN = "unknown"
SPOOL = "spool"

WAITING = (
    "coursewire_waiting",
    "What waits: callbacks in the queue `ingest` and in `spool`, deliveries in `handler.<name>`",
)
OLDEST = (
    "coursewire_oldest_waiting_seconds",
    "Seconds since the oldest of what waits was received; 0 where nothing waits",
)
DEAD = ("coursewire_dead", "Deliveries that are dead now, by handler")
QUARANTINED = ("coursewire_quarantined", "Callbacks that are in quarantine now, by source")

END_TO_END_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 21600, 86400)


class WorkMetrics:
    """What ingest, the handlers and the sweep did, in this process."""

    def __init__(self, sources: Collection[str]) -> None:
        self._sources = sources
        self.registry = registry = CollectorRegistry()
        self._receipts = Counter(
            "coursewire_receipts",
            "Callbacks that ingest took, by source and outcome (events, duplicate, ignored, quarantined)",
            ["source", "outcome"],
            registry=registry,
        )
        self._duplicates = Counter(
            "coursewire_duplicates",
            "Events that were there already with the same content, by source",
            ["source"],
            registry=registry,
        )
        self._conflicts = Counter(
            "coursewire_conflicts",
            "Events whose key was there already with other content, by source",
            ["source"],
            registry=registry,
        )
        self._unknown_fields = Counter(
            "coursewire_unknown_fields",
            "Fields of new events that the provider's schema does not know, by source",
            ["source"],
            registry=registry,
        )
        self._attempts = Counter(
            "coursewire_attempts",
            "Attempts by handler and outcome (done, skipped, failed, dead, not_now, crashed, unknown)",
            ["handler", "outcome"],
            registry=registry,
        )
        self._end_to_end = Histogram(
            "coursewire_end_to_end_seconds",
            "Seconds from a callback's arrival to a delivery that is done or skipped, by handler",
            ["handler"],
            buckets=END_TO_END_BUCKETS,
            registry=registry,
        )

    def ingested(self, written: Written) -> None:
        """Of a batch, after its commit: one step for each label, however many callbacks it had."""
        outcomes = Tally((self._source(source), outcome) for source, outcome in written.outcomes)
        for (source, outcome), count in outcomes.items():
            self._receipts.labels(source, outcome.value).inc(count)
        duplicates: Tally[str] = Tally()
        conflicts: Tally[str] = Tally()
        unknown_fields: Tally[str] = Tally()
        for each in written.entered:
            source = self._source(each.candidate.event.source)
            if each.new:
                unknown_fields[source] += each.candidate.unknown_fields
            else:
                (conflicts if each.conflict else duplicates)[source] += 1
        for counter, counts in (
            (self._duplicates, duplicates),
            (self._conflicts, conflicts),
            (self._unknown_fields, unknown_fields),
        ):
            for source, count in counts.items():
                counter.labels(source).inc(count)

    def attempted(self, handler: str, outcomes: Iterable[str], arrived: Iterable[datetime] = ()) -> None:
        """Attempts, after their commit. `arrived`: when the events of those that finished were received."""
        for outcome, count in Tally(outcomes).items():
            self._attempts.labels(handler, outcome).inc(count)
        now = datetime.now(UTC)
        seconds = self._end_to_end.labels(handler)
        for moment in arrived:
            seconds.observe(_seconds(now - moment))

    def _source(self, name: str) -> str:
        return name if name in self._sources else UNKNOWN


class BacklogMetrics(Collector):
    """Shows the last look at the backlog. A scrape reads no server; ages go on between two looks."""

    def __init__(self, sources: Collection[str]) -> None:
        self._sources = sources
        self._taken: Backlog | None = None

    def show(self, backlog: Backlog | None) -> None:
        """None where it could not be taken: better no figure than an old one."""
        self._taken = backlog

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield from self._families(self._taken)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield from self._families(None)

    def _families(self, taken: Backlog | None) -> Iterator[GaugeMetricFamily]:
        waiting = GaugeMetricFamily(*WAITING, labels=["queue"])
        oldest = GaugeMetricFamily(*OLDEST, labels=["queue"])
        dead = GaugeMetricFamily(*DEAD, labels=["handler"])
        quarantined = GaugeMetricFamily(*QUARANTINED, labels=["source"])
        if taken is not None:
            now = datetime.now(UTC)
            queues = {handler_queue(name): line for name, line in taken.handlers.items()}
            for queue, line in {INGEST: taken.inbox, **queues}.items():
                waiting.add_metric([queue], line.count)
                oldest.add_metric([queue], _seconds(now - line.oldest) if line.oldest else 0.0)
            for handler, count in taken.dead.items():
                dead.add_metric([handler], count)
            for source, count in self._by_source(taken.quarantined).items():
                quarantined.add_metric([source], count)
        yield from (waiting, oldest, dead, quarantined)

    def _by_source(self, counts: Mapping[str, int]) -> dict[str, int]:
        found = dict.fromkeys(self._sources, 0)
        for source, count in counts.items():
            name = source if source in self._sources else UNKNOWN
            found[name] = found.get(name, 0) + count
        return found


def _seconds(age: timedelta) -> float:
    """Clocks of two hosts may differ."""
    return max(age / timedelta(seconds=1), 0.0)
