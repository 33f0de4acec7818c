"""Reading bodies at the command line as ingest does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from coursewire.inbox import Entry
from coursewire.ledger.events import hashed_key
from coursewire.plugins import Reading
from coursewire.settings import Settings
from workers.read import Reader, load_providers


def reader_of(settings: Settings) -> Reader:
    return Reader(settings.sources, load_providers(settings))


def key_parts(key: str) -> list[Any]:
    """The parts of a key in plain text: a JSON array, or for an event that no schema knows two words."""
    try:
        parts = orjson.loads(key)
    except orjson.JSONDecodeError:
        return key.split("\0")
    return parts if isinstance(parts, list) else [key]


def parts_of_keys(
    entry: Entry, events: Sequence[dict[str, Any]], reader: Reader, secret: bytes
) -> dict[str, list[Any]]:
    """For each event of this callback whose key today's schemas still make: what it is made of."""
    items = reader.read(entry).items
    found = {}
    for event in events:
        item = items[event["item"]] if event["item"] < len(items) and event["parent"] is None else None
        if isinstance(item, Reading) and hashed_key(item.event, secret).hex() == event["key"]:
            found[event["id"]] = key_parts(item.event.key)
    return found
