"""Callbacks as the ledger keeps them, to be read again: redacted, without credentials."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from sqlalchemy import Connection, select

from coursewire.inbox import Entry
from coursewire.ledger.tables import receipts
from coursewire.plugins import Callback


def stored_entries(db: Connection, receipt_ids: Sequence[str]) -> dict[str, Entry]:
    """The entry of each receipt as it was read from the inbox, by receipt.

    The body is empty where none was kept: its secrets were not known when it came.
    """
    return {
        row.id: Entry(
            id=row.entry,
            callback=Callback(
                receipt=row.id,
                source=row.source,
                body=zlib.decompress(row.body),
                received_at=row.received_at,
                method=row.method,
                content_type=row.content_type,
                headers=row.headers or {},
                remote_address=row.remote_address,
                verified_by=row.verified_by,
            ),
            provider=row.provider,
        )
        for row in db.execute(select(receipts).where(receipts.c.id.in_(receipt_ids)))
    }
