from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event, select

from coursewire.event import Event
from coursewire.ledger.audit import Entry, append
from coursewire.ledger.tables import audit
from workers.handlers.audit import Audit


def rows(ledger: Engine) -> list[dict[str, Any]]:
    with ledger.connect() as db:
        return [row._asdict() for row in db.execute(select(audit).order_by(audit.c.id))]


def test_every_event_gets_one_row_in_order_and_none_has_personal_data(
    fresh_ledger: Engine, make_event: Callable[..., Event]
) -> None:
    """Each event of a batch is one row, in the batch's order; only its source and id are kept."""
    events = [make_event(), make_event("learner.created", course=None), make_event(source="academy")]
    with fresh_ledger.begin() as db:
        assert Audit("audit", {}).record_batch(events, db) == [None, None, None]
    found = rows(fresh_ledger)
    assert [(row["kind"], row["source"], row["event_id"]) for row in found] == [
        ("event", "school", events[0].id),
        ("event", "school", events[1].id),
        ("event", "academy", events[2].id),
    ]
    assert {(row["receipt_id"], row["outcome"], row["detail"]) for row in found} == {(None, None, None)}
    assert "ana" not in str(found).lower()


def test_record_means_a_batch_of_one(fresh_ledger: Engine, make_event: Callable[..., Event]) -> None:
    """`record` writes what `record_batch` writes for one event."""
    with fresh_ledger.begin() as db:
        assert Audit("audit", {}).record(make_event(), db) is None
    assert len(rows(fresh_ledger)) == 1


def test_a_batch_costs_one_statement(fresh_ledger: Engine, make_event: Callable[..., Event]) -> None:
    """The rows of a batch go to the database together, not one by one."""
    statements: list[bool] = []

    @event.listens_for(fresh_ledger, "before_cursor_execute")
    def count(db: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
        statements.append(executemany)

    with fresh_ledger.begin() as db:
        statements.clear()  # BEGIN
        Audit("audit", {}).record_batch([make_event() for _ in range(200)], db)
        assert statements == [True]
    assert len(rows(fresh_ledger)) == 200


def test_receipts_are_audited_through_the_same_function(fresh_ledger: Engine) -> None:
    """Ingest hands in entries of its own kind; every field is kept, and no entry needs no statement."""
    receipt = "0190b6e4-0000-7000-8000-000000000001"
    with fresh_ledger.begin() as db:
        append(db, [])
        append(db, [Entry("receipt", "school", receipt_id=receipt, outcome="events", detail={"items": 2})])
    (row,) = rows(fresh_ledger)
    assert (row["kind"], row["receipt_id"], row["outcome"], row["detail"]) == (
        "receipt",
        receipt,
        "events",
        {"items": 2},
    )
