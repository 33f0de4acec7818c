"""The account of callbacks, for people."""

from __future__ import annotations

from console.tables import Column, age
from coursewire.ledger.stats import REPORTED, Stats

NAMES = [state.value for state in REPORTED]


def _count_column(name: str) -> Column:
    return Column(name.capitalize(), max(7, len(name)), lambda row: f"{row[name]:,}", right=True)


SOURCE_COLUMNS = [Column("Source", None, lambda row: row["source"]), *map(_count_column, NAMES)]


def stats_text(stats: Stats) -> str:
    lines = [f"{name:<12}{getattr(stats, name):>12,}" for name in ("accepted", *NAMES, "unexplained")]
    if stats.unexplained:
        lines.append("Some callbacks are unexplained: inbox and ledger do not belong together, or lost data.")
    lines += ["", f"{stats.events:,} events; {_oldest(stats)}."]
    return "\n".join(lines)


def _oldest(stats: Stats) -> str:
    if not stats.waiting:
        return "nothing waits"
    return f"the oldest callback that waits is {age(stats.oldest_waiting_seconds)} old"
