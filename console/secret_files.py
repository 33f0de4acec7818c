"""Secrets that the configuration names but does not hold: `file:PATH` and `env:NAME`, wherever they stand."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def references(configuration: bytes) -> list[str]:
    """As they are written, sorted; none where the file is no TOML."""
    try:
        document = tomllib.loads(configuration.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return []
    return sorted({text for text in _texts(document) if text.startswith(("file:", "env:"))})


def files(configuration: Path) -> list[Path]:
    return [
        Path(text.removeprefix("file:"))
        for text in references(configuration.read_bytes())
        if text.startswith("file:")
    ]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
