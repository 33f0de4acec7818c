"""Finding receipts and events by what an operator types."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, Table, select

from coursewire.errors import NotFound
from coursewire.ledger.tables import events, receipts

PREFIX_CHARACTERS = 8
_ID = re.compile(rf"[0-9a-f]{{{PREFIX_CHARACTERS},32}}")


@dataclass(frozen=True, slots=True)
class Found:
    kind: Literal["receipt", "event"]
    id: str


def find(db: Connection, text: str) -> Found:
    """The receipt or event with this id, or with the only id that begins so. Raises `NotFound`."""
    digits = text.strip().lower().replace("-", "")
    if not _ID.fullmatch(digits):
        raise NotFound(
            f"{text!r} is no id of a receipt or event, nor at least {PREFIX_CHARACTERS} digits of one"
        )
    found = [Found("receipt", each) for each in _beginning(db, receipts, digits)]
    found += [Found("event", each) for each in _beginning(db, events, digits)]
    if not found:
        raise NotFound(
            f"the ledger has no receipt or event {text}; what was just taken may still be in the inbox"
        )
    if len(found) > 1:
        several = ", ".join(f"{each.kind} {each.id}" for each in found)
        raise NotFound(f"{text} is the beginning of several ids, among them {several}")
    return found[0]


def _beginning(db: Connection, table: Table, digits: str) -> Sequence[str]:
    low, high = digits.ljust(32, "0"), digits.ljust(32, "f")
    statement = select(table.c.id).where(table.c.id.between(low, high)).order_by(table.c.id).limit(3)
    return db.scalars(statement).all()
