"""What a body would become, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from console.event_text import errors_text, event_lines, line, unknown_lines
from console.tables import as_json_text


def check_text(items: Sequence[dict[str, Any]]) -> str:
    return "\n\n".join("\n".join(_item(item)) for item in items)


def _item(item: dict[str, Any]) -> Iterator[str]:
    if item["state"] == "quarantined":
        yield f"Item {item['item']} would be quarantined: {item['reason']}"
        if item["wire_type"]:
            yield line("sent as", item["wire_type"])
        for text in errors_text(item["errors"]).splitlines():
            yield line("", text)
        return
    if item["state"] == "ignored":
        yield f"Item {item['item']} would be ignored: no schema knows {item['wire_type']}"
        return
    yield f"Item {item['item']} would be an event"
    yield from event_lines(item["event"])
    if item["event"]["data"]:
        yield line("data", as_json_text(item["event"]["data"]))
    yield line("key", as_json_text(item["key"]))
    yield from unknown_lines(item["unknown_fields"])
    yield line("wanted by", ", ".join(item["wanted_by"]) or "no configured handler: it would be ignored")
