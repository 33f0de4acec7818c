"""The configured handlers: which plug-in each uses, what it wants, and its validated options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from marshmallow import RAISE, ValidationError

from coursewire.errors import InvalidConfiguration, NotFound
from coursewire.event import EventType
from coursewire.plugins import HANDLERS, Handler, load, load_all
from coursewire.settings import HandlerSettings, Settings

EVERY_TYPE = "*"


@dataclass(frozen=True, slots=True)
class Configured:
    """`[handlers.<name>]`, checked. `plugin` is not made yet: only its own workers make it."""

    name: str
    uses: str
    plugin: type[Handler]
    wants: frozenset[str]
    options: Mapping[str, Any] = field(repr=False)

    def make(self) -> Handler:
        return self.plugin(self.name, self.options)


def configured(settings: Settings) -> dict[str, Configured]:
    """Every configured handler by name. Raises `InvalidConfiguration` or `InvalidPlugin`."""
    return {name: _configure(given) for name, given in settings.handlers.items()}


def takers(wants: Mapping[str, Iterable[str]], event_type: str) -> list[str]:
    """Which handlers want an event of this type. `wants`: event types by handler."""
    if event_type == EventType.UNKNOWN:
        return []
    return sorted(name for name, types in wants.items() if event_type in types or EVERY_TYPE in types)


def _configure(given: HandlerSettings) -> Configured:
    prefix = f"handlers.{given.name}"
    try:
        plugin = load(HANDLERS, given.uses, Handler)
    except NotFound as exc:
        raise InvalidConfiguration(f"{prefix}.uses", exc.detail) from exc
    try:
        options = plugin.Options(unknown=RAISE).load(given.options)
    except ValidationError as exc:
        key, message = _first(exc.messages_dict)
        raise InvalidConfiguration(f"{prefix}.{key}", message) from exc
    wants = plugin.wants if given.events is None else given.events
    unknown = wants - _event_types()
    if unknown:
        raise InvalidConfiguration(f"{prefix}.events", f"no such event type: {', '.join(sorted(unknown))}")
    if given.limits:
        plugin = type(plugin.__name__, (plugin,), {**given.limits, "__module__": plugin.__module__})
    return Configured(given.name, given.uses, plugin, wants, options)


def _event_types() -> set[str]:
    """Ours, and those that installed plug-ins say they emit."""
    emitted = {kind for plugin in load_all(HANDLERS, Handler).values() for kind in plugin.emits}
    return {*EventType, *emitted, EVERY_TYPE}


def _first(messages: Mapping[str, Any]) -> tuple[str, str]:
    path: list[str] = []
    found: Any = messages
    while isinstance(found, Mapping):
        key, found = next(iter(found.items()))
        path.append(str(key))
    return ".".join(path), str(found[0] if isinstance(found, list) else found)
