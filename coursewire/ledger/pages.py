"""Reading long tables page by page, so that no transaction stays open while somebody reads the output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, Row, Select, literal, tuple_

from coursewire.ledger.engine import reading

PAGE_ROWS = 1000

T = TypeVar("T")


def pages(
    engine: Engine,
    statement: Select[Any],
    keys: Sequence[ColumnElement[Any]],
    make: Callable[[Connection, Sequence[Row[Any]]], Iterable[T]],
    *,
    newest_first: bool = True,
    rows: int = PAGE_ROWS,
) -> Iterator[T]:
    """All that `make` makes of each page of `statement`, in the order of `keys`.

    The keys together are unique, none is null, and each is among the selected columns. Ids sort by the time
    they were made, so descending is newest first.
    """
    ordered = statement.order_by(*(key.desc() if newest_first else key.asc() for key in keys)).limit(rows)
    page = ordered
    while True:
        with reading(engine) as db:
            found = db.execute(page).all()
            made = list(make(db, found))
        yield from made
        if len(found) < rows:
            return
        row = tuple_(*keys)
        last = tuple_(*(literal(found[-1]._mapping[key], key.type) for key in keys))
        page = ordered.where(row < last if newest_first else row > last)
