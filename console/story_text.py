"""The story of a callback, for people."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import orjson

from console.event_text import errors_text, event_lines, line, unknown_lines
from console.tables import age, as_json_text, plain, when
from coursewire.event import EventType
from coursewire.ledger.reports import error_line

Record = dict[str, Any]


def story_text(story: Record) -> str:
    receipt = story["receipt"]
    lines = [f"Receipt {receipt['id']}", *_receipt(receipt)]
    for event in story["events"]:
        lines += ["", f"Event {event['id']}, {_origin(event)}", *_event(event)]
        owed = [each for each in story["deliveries"] if each["event"] == event["id"]]
        tried = [each for each in story["attempts"] if each["event"] == event["id"]]
        lines += _handlers(event, owed, tried)
    for each in receipt["duplicates"]:
        lines += ["", f"Item {each['item']} is a duplicate of event {each['event']}"]
        if each["receipt"] is not None:
            lines.append(line("of receipt", f"{each['receipt']}, {when(each['received_at'])}"))
    for each in receipt["quarantine"]:
        lines += ["", f"Item {each['item']} is in quarantine since {when(each['quarantined_at'])}"]
        lines.append(line("reason", each["reason"]))
        if each["wire_type"]:
            lines.append(line("sent as", each["wire_type"]))
        lines += [line("", text) for text in errors_text(each["errors"]).splitlines()]
        if each["event"]:
            lines.append(line("against", f"event {each['event']}"))
    if "body" in receipt:
        lines += ["", "Body, redacted", _pretty(receipt["body"])]
    return "\n".join(lines)


def _receipt(receipt: Record) -> Iterator[str]:
    yield line("source", f"{receipt['source']} ({receipt['provider']})")
    origin = f" from {receipt['remote_address']}" if receipt["remote_address"] else ""
    yield line("received", f"{when(receipt['received_at'])} by {receipt['method']}{origin}")
    yield line("content", f"{receipt['size']:,} bytes, {receipt['content_type'] or 'no content type'}")
    yield line("verified by", receipt["verified_by"] or "nothing")
    yield line("came to", receipt["outcome"])
    yield line("state", receipt["state"])
    for each in receipt["audit"]:
        if each["kind"] == "replay":
            detail = ", ".join(f"{name} {value}" for name, value in (each["detail"] or {}).items())
            yield line("replayed", f"{when(each['at'])} {each['outcome']}: {detail}")


def _origin(event: Record) -> str:
    if event["parent"] is not None:
        return f"following {event['parent']}"
    return f"item {event['item']}, valid" if event["type"] != EventType.UNKNOWN else f"item {event['item']}"


def _event(event: Record) -> Iterator[str]:
    yield from event_lines(event)
    yield line("key", event["key"])
    if event["key_parts"] is not None:
        yield line("made of", as_json_text(event["key_parts"]))
    yield from unknown_lines(event["unknown_fields"])
    for each in event["repeated_by"]:
        yield line("repeated by", f"receipt {each['receipt']}, item {each['item']}")
    yield line("state", event["state"])


def _handlers(event: Record, owed: list[Record], tried: list[Record]) -> Iterator[str]:
    """Each handler's verdict and why, with its attempts; then those that have no part in it."""
    for delivery in owed:
        why = error_line(delivery["code"], delivery["detail"])
        yield line("handler", f"{delivery['handler']}: {delivery['state']}{f', {why}' if why else ''}")
        for attempt in tried:
            if attempt["handler"] == delivery["handler"]:
                yield line("", f"- {_attempt(attempt)}")
        if delivery["state"] == "retrying":
            yield line("", f"- next not before {when(delivery['due_at'])}")
    for name, reason in event["passed_over"].items():
        yield line("handler", f"{name}: not asked, {reason}")


def _attempt(attempt: Record) -> str:
    started, ended = attempt["started_at"], attempt["ended_at"]
    words = f"{when(started or ended)} {attempt['outcome']}"
    if started is not None and ended is not None:
        words += f" after {age(max((ended - started) / timedelta(seconds=1), 0.0))}"
    why = error_line(attempt["code"], attempt["detail"])
    return f"{words}, {why}" if why else words


def _pretty(body: str) -> str:
    try:
        return plain(orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2).decode())
    except orjson.JSONDecodeError:
        return plain(body)
