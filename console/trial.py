"""What a body would become: no server, no ledger, nothing is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from console.reading import key_parts
from coursewire.errors import NotFound
from coursewire.event import EventType
from coursewire.handlers import configured, takers
from coursewire.inbox import Entry
from coursewire.ledger.receipts import Problem
from coursewire.ledger.tables import utc_now
from coursewire.plugins import PROVIDERS, Callback, Provider, Reading, load
from coursewire.settings import Settings, Source
from workers.read import Reader


def try_body(
    settings: Settings,
    provider: str,
    body: bytes,
    source: str | None,
    content_type: str,
    headers: Mapping[str, str],
) -> list[dict[str, Any]]:
    """For each item `{item, state, wire_type, reason, errors, event, key, unknown_fields, wanted_by}`.

    `state` is event, ignored (no schema knows it) or quarantined. The last four are null of what is
    quarantined. Raises `NotFound` for a provider or source that is not there.
    """
    plugin = load(PROVIDERS, provider, Provider)()
    if source is not None and source not in settings.sources:
        raise NotFound(f"there is no source {source}")
    as_source = settings.sources[source] if source is not None else Source(name=provider, provider=provider)
    as_source = replace(as_source, provider=provider)
    callback = Callback(
        receipt="",
        source=as_source.name,
        body=body,
        received_at=utc_now(),
        content_type=content_type,
        headers={name: value for name, value in headers.items() if name in plugin.headers},
    )
    reader = Reader({as_source.name: as_source}, {provider: plugin})
    wants = {name: handler.wants for name, handler in configured(settings).items()}
    read = reader.read(Entry("", callback, provider))
    return [{"item": index, **_item(item, wants)} for index, item in enumerate(read.items)]


def _item(item: Reading | Problem, wants: Mapping[str, frozenset[str]]) -> dict[str, Any]:
    if isinstance(item, Problem):
        return {
            "state": "quarantined",
            "wire_type": item.wire_type,
            "reason": item.code,
            "errors": dict(item.errors),
            "event": None,
            "key": None,
            "unknown_fields": None,
            "wanted_by": None,
        }
    event = item.event.as_dict()
    # They are made anew each time, and the key is told by its parts.
    for name in ("id", "key", "received_at"):
        del event[name]
    return {
        "state": "ignored" if item.event.type == EventType.UNKNOWN else "event",
        "wire_type": item.event.wire_type,
        "reason": None,
        "errors": {},
        "event": event,
        "key": key_parts(item.event.key),
        "unknown_fields": list(item.unknown_fields),
        "wanted_by": takers(wants, item.event.type),
    }
