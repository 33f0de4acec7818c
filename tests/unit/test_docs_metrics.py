"""docs/metrics.md says of each metric what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, values

from coursewire.metrics import BacklogMetrics, WorkMetrics
from receiver.metrics import Metrics

DOCUMENT = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
WORK, BACKLOG, RECEIVER = "worker, sweep", "sweep", "receiver"


def described(registry: CollectorRegistry, process: str) -> dict[str, tuple[str, str, str, set[str]]]:
    """Name as it is scraped: type, labels, meaning, processes."""
    found = {}
    for collector in registry._collector_to_names:
        for family in collector.describe():
            labels = getattr(collector, "_labelnames", None) or getattr(family, "_labelnames", ())
            name = f"{family.name}_total" if family.type == "counter" else family.name
            shown = ", ".join(f"`{label}`" for label in labels) or "–"
            found[name] = (family.type, shown, family.documentation, set(process.split(", ")))
    return found


@pytest.fixture
def defined(monkeypatch):
    monkeypatch.setattr(values, "ValueClass", values.MutexValue)
    backlog = CollectorRegistry()
    backlog.register(BacklogMetrics([]))
    found = {}
    for registry, process in (
        (Metrics().registry, RECEIVER),
        (WorkMetrics([]).registry, WORK),
        (backlog, BACKLOG),
    ):
        for name, (*rest, processes) in described(registry, process).items():
            assert name not in found or found[name][:3] == tuple(rest), f"{name} differs between processes"
            known = found[name][3] if name in found else set()
            found[name] = (*rest, known | processes)
    return found


@pytest.fixture
def documented():
    rows = re.findall(
        r"^\| `(coursewire_\w+)` \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", DOCUMENT, re.MULTILINE
    )
    assert len(rows) == len({name for name, *_ in rows}), "a metric stands there twice"
    return {name: (*rest, set(processes.split(", "))) for name, *rest, processes in rows}


def test_the_table_of_metrics_is_the_code(defined, documented):
    """Neither has one that the other has not, and they say the same of each."""
    assert documented == defined


def test_every_name_has_our_prefix(defined):
    assert {name for name in defined if not name.startswith("coursewire_")} == set()
