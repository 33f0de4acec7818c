"""Reading a callback: from bytes to events, or to problems that say why not. No I/O, no handler's code."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

import structlog

from coursewire.errors import (
    Code,
    CoursewireError,
    InvalidConfiguration,
    NotFound,
    SchemaViolation,
    UnknownEvent,
    Unparsable,
)
from coursewire.event import Event, EventType, new_id
from coursewire.inbox import Entry
from coursewire.ledger.receipts import Problem, Read
from coursewire.plugins import PROVIDERS, Callback, Provider, Reading, load
from coursewire.settings import Settings, Source

log = structlog.get_logger()

WIRE_TYPE_CHARACTERS = 128


def load_providers(settings: Settings) -> dict[str, Provider]:
    """The providers of the configured sources. Raises `InvalidConfiguration` or `InvalidPlugin`."""
    providers: dict[str, Provider] = {}
    for source in settings.sources.values():
        if source.provider not in providers:
            try:
                providers[source.provider] = load(PROVIDERS, source.provider, Provider)()
            except NotFound as exc:
                raise InvalidConfiguration(f"sources.{source.name}.provider", exc.detail) from exc
    return providers


# A source that is nowhere must not make a worker read its configuration all the time.
REFRESH_SECONDS = 1.0


class Reader:
    """Reads callbacks with today's schemas and sources.

    `refresh` gives the settings as they are now: the receiver may know a new source a moment before the
    workers are started again.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        providers: Mapping[str, Provider],
        refresh: Callable[[], Settings] | None = None,
    ) -> None:
        self._sources = sources
        self._providers = providers
        self._refresh = refresh
        self._refreshed_at = -REFRESH_SECONDS

    def read(self, entry: Entry) -> Read:
        """Never raises for a body: what is wrong with it becomes a problem."""
        callback = entry.callback
        source = self._sources.get(callback.source) or self._new_source(callback.source)
        if source is None:
            problem = Problem(Code.UNKNOWN_SOURCE, {"source": ["is not in this worker's configuration"]})
            return Read(entry, self.redact(entry), [problem])
        provider = self._providers[source.provider]
        entry = replace(entry, provider=source.provider)
        return Read(entry, self.redact(entry), self._items(callback, provider, source))

    def _new_source(self, name: str) -> Source | None:
        if self._refresh is None or time.monotonic() - self._refreshed_at < REFRESH_SECONDS:
            return None
        self._refreshed_at = time.monotonic()
        try:
            settings = self._refresh()
            providers = load_providers(settings)
        except CoursewireError as exc:
            log.warning("configuration could not be read again", code=exc.code, error=exc.detail)
            return None
        self._sources, self._providers = settings.sources, providers
        return self._sources.get(name)

    def set_aside(self, entry: Entry) -> Read:
        """A callback whose every reading ended without an end: quarantined unparsed."""
        problem = Problem(Code.POISON, {"": [f"read {entry.reads - 1} times without an end"]})
        return Read(entry, self.redact(entry), [problem])

    def redact(self, entry: Entry) -> bytes:
        provider = self._providers.get(entry.provider)
        if provider is None:
            # Its secrets are unknown here; the body may hold any. The receipt stays, the body does not.
            return b""
        try:
            return provider.redact(entry.callback.body)
        except Exception as exc:  # noqa: BLE001 - a secret in the ledger is worse than a missing body
            _bug(entry.callback, exc)
            return b""

    def _items(self, callback: Callback, provider: Provider, source: Source) -> list[Reading | Problem]:
        zone = source.timezone or ZoneInfo(provider.default_timezone)
        try:
            items = provider.split(callback)
        except Unparsable as exc:
            return [Problem(exc.code, {"": [exc.detail]})]
        except Exception as exc:  # noqa: BLE001 - a provider's bug must not stop other callbacks
            return [_bug(callback, exc)]
        return [self._item(index, item, callback, provider, zone) for index, item in enumerate(items)]

    def _item(
        self, index: int, item: Any, callback: Callback, provider: Provider, zone: ZoneInfo
    ) -> Reading | Problem:
        try:
            return provider.read(item, callback, zone)
        except SchemaViolation as exc:
            return Problem(exc.code, exc.errors, _short(exc.wire_type))
        except UnknownEvent as exc:
            return unknown_event(callback, provider, exc.wire_type, index)
        except CoursewireError as exc:
            return Problem(exc.code, {"": [exc.detail]})
        except Exception as exc:  # noqa: BLE001 - a provider's bug must not stop other callbacks
            return _bug(callback, exc)


def unknown_event(callback: Callback, provider: Provider, wire_type: str, index: int) -> Reading:
    """An event that no schema knows: kept, listed as ignored, and read again by `replay`."""
    redacted = provider.redact(callback.body)
    event = Event(
        id=new_id(),
        source=callback.source,
        provider=provider.name,
        type=EventType.UNKNOWN,
        wire_type=wire_type[:WIRE_TYPE_CHARACTERS],
        key=f"{index}\0{wire_type}\0{hashlib.sha256(redacted).hexdigest()}",
        occurred_at=callback.received_at,
        received_at=callback.received_at,
    )
    return Reading(event, redacted)


def _bug(callback: Callback, exc: Exception) -> Problem:
    log.error("provider failed", code=Code.INTERNAL_ERROR, receipt=callback.receipt, error=type(exc).__name__)
    return Problem(Code.INTERNAL_ERROR, {"": [f"the provider failed: {type(exc).__name__}"]})


def _short(wire_type: str | None) -> str | None:
    return None if wire_type is None else wire_type[:WIRE_TYPE_CHARACTERS]
