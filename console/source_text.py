"""How a source is told: its URL, and how the LMS proves itself."""

from __future__ import annotations

from typing import Any

from coursewire.settings import Settings, Source

MASK = "***"


def record(settings: Settings, source: Source) -> dict[str, Any]:
    """With the whole URL: programs post there."""
    return {"name": source.name, "provider": source.provider, "url": settings.source_url(source)}


def described(settings: Settings, source: Source) -> str:
    """Two lines without a secret."""
    url = settings.source_url(source)
    if source.tokens:
        url = f"{url.rpartition('/')[0]}/{MASK}"
    return f"{url}\n{_way(source)}"


def secrets_of(settings: Settings, source: Source) -> list[str]:
    """The lines that whoever sets up the LMS needs."""
    lines = [settings.source_url(source)]
    if source.header is not None:
        lines.append(f"header {source.header}: {source.secrets[0].reveal()}")
    if source.username is not None:
        lines.append(f"user {source.username}, password {source.passwords[0].reveal()}")
    return lines


def _way(source: Source) -> str:
    count = len(source.tokens or source.secrets or source.passwords)
    if source.header is not None:
        way = f"secret in the header {source.header}"
    elif source.username is not None:
        way = f"HTTP Basic as {source.username}"
    else:
        way = "token in the path"
    return f"{way}, being rotated" if count > 1 else way
