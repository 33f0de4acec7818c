"""The audit trail: rows are only ever added, and hold no personal data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection

from coursewire.ledger.tables import audit, utc_now


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the trail.

    `kind` says what it is about ("receipt", "event", ...), `outcome` how that ended. Whoever reads the trail
    finds the rest by the ids, for as long as receipt and event are kept: `detail` is for what the ids do not
    tell, and never for what came from the callback.
    """

    kind: str
    source: str | None = None
    receipt_id: str | None = None
    event_id: str | None = None
    outcome: str | None = None
    detail: Mapping[str, Any] | None = None


def append(db: Connection, entries: Sequence[Entry]) -> None:
    """Add `entries` in their order, in the caller's transaction: one statement."""
    if entries:
        at = utc_now()
        db.execute(audit.insert(), [{"at": at, **asdict(entry)} for entry in entries])
