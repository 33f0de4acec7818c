"""How many callbacks were ever appended, also across the loss of the inbox's data.

A stream counts its own entries, independently of the ledger. When its server loses everything, a new
generation begins, and what earlier ones gave is what the ledger had received by then.
"""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from coursewire.ledger.engine import insert
from coursewire.ledger.tables import inbox_generations, reappends, receipts, utc_now


def note_generation(db: Connection, generation: str) -> None:
    before = select(func.count()).select_from(receipts).scalar_subquery()
    doubled = select(func.count()).select_from(reappends).scalar_subquery()
    db.execute(
        insert(db, inbox_generations)
        .values(generation=generation, began_at=utc_now(), receipts_before=before + doubled)
        .on_conflict_do_nothing()
    )


def appended_before(db: Connection) -> int:
    """What was appended before the current generation, less what was appended twice ever."""
    newest = (
        select(inbox_generations.c.receipts_before).order_by(inbox_generations.c.began_at.desc()).limit(1)
    )
    doubled = db.scalar(select(func.count()).select_from(reappends)) or 0
    return (db.scalar(newest) or 0) - doubled
