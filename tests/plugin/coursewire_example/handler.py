"""`counts`: how many events of each type came, as an example of a handler that is not ours."""

from __future__ import annotations

from collections.abc import Iterable

from marshmallow import Schema, fields
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table

from coursewire import Event, Handler, Skip

metadata = MetaData()

counts = Table(
    "counts_by_type",
    metadata,
    Column("source", String(64), primary_key=True),
    Column("type", String(64), primary_key=True),
    Column("events", Integer, nullable=False),
)


class Counts(Handler):
    """Counts by source, or with `by_source = false` all sources together."""

    wants = frozenset({"*"})
    metadata = metadata

    class Options(Schema):
        by_source = fields.Boolean(load_default=True)

    def record(self, event: Event, db: Connection) -> Iterable[Event] | None:
        if event.type == "certificate.awarded":
            raise Skip("told by another event already")
        source = event.source if self.options["by_source"] else "*"
        this_row = (counts.c.source == source, counts.c.type == event.type)
        # Where two processes insert the same first row, one of them fails, and is tried again by itself.
        if not db.execute(counts.update().where(*this_row).values(events=counts.c.events + 1)).rowcount:
            db.execute(counts.insert().values(source=source, type=event.type, events=1))
        return None
