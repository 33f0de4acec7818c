"""The parts of an event as labelled lines, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from console.tables import as_json_text, one_line, when

LABEL = 12


def line(label: str, text: object) -> str:
    return f"  {label:<{LABEL}} {one_line(text)}"


def errors_text(errors: Mapping[str, list[str]]) -> str:
    """One line for each field; what is about the whole body has no field."""
    return "\n".join(
        f"{path}: {'; '.join(messages)}" if path else "; ".join(messages)
        for path, messages in sorted(errors.items())
    )


def event_lines(event: Mapping[str, Any]) -> Iterator[str]:
    """What happened. `event` is `Event.as_dict()`, or that and more."""
    yield line("type", f"{event['type']} (sent as {event['wire_type']})")
    assumed = ", in a zone that was assumed" if event["zone_assumed"] else ""
    yield line("occurred", f"{when(event['occurred_at'])}{assumed}")
    for name, fields in (("learner", ("name", "email", "id")), ("course", ("title", "kind", "id"))):
        if event[name] is not None:
            yield line(name, ", ".join(str(event[name][field]) for field in fields if event[name][field]))
    for name in ("activity", "registration", "result"):
        given = {field: value for field, value in (event[name] or {}).items() if value is not None}
        if given:
            yield line(name, ", ".join(f"{field} {_value(value)}" for field, value in given.items()))
    yield line("triggered by", event["triggered_by"])
    if event["certificate_subject"] is not None:
        yield line("certifies", as_json_text(event["certificate_subject"]))


def unknown_lines(paths: list[str]) -> Iterator[str]:
    if paths:
        yield line("unknown", f"{len(paths)} fields: {', '.join(paths)}")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return when(value) if isinstance(value, datetime) else str(value)
