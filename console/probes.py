"""How the supervisor sees whether a process lives: asked over its own socket, or by its heartbeat file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import IntEnum
from pathlib import Path
from urllib.parse import unquote, urlsplit

from coursewire.heartbeat import INTERVAL_SECONDS, READY

ANSWER_SECONDS = 4.0
STALE_SECONDS = 3 * INTERVAL_SECONDS


class Life(IntEnum):
    SILENT = 0
    ALIVE = 1
    READY = 2
    """It does its work."""


# Told whether the process was ready before: some questions cost more than is needed then.
Probe = Callable[[bool], Awaitable[Life]]


def heartbeat(path: Path) -> Probe:
    """Alive while the file is touched. Its times are only compared with each other, so no clock matters."""
    last, heard = 0, 0.0

    async def look(ready: bool) -> Life:
        nonlocal last, heard
        try:
            touched = path.stat().st_mtime_ns
            says = path.read_text(encoding="ascii")
        except OSError:
            return Life.SILENT
        if touched != last:
            last, heard = touched, time.monotonic()
        elif time.monotonic() - heard > STALE_SECONDS:
            return Life.SILENT
        return Life.READY if says == READY else Life.ALIVE

    return look


def redis(url: str) -> Probe:
    """Alive while it loads its data, ready when it answers PING."""

    async def look(ready: bool) -> Life:
        parts = urlsplit(url)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if parts.scheme == "unix":
                    reader, writer = await asyncio.open_unix_connection(unquote(parts.path))
                else:
                    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
                try:
                    if parts.password:
                        writer.write(f"AUTH {unquote(parts.password)}\r\n".encode())
                        await reader.readline()
                    writer.write(b"PING\r\n")
                    answer = await reader.readline()
                finally:
                    writer.close()
        except OSError:  # TimeoutError is one
            return Life.SILENT
        if answer.startswith(b"+PONG"):
            return Life.READY
        return Life.ALIVE if answer.startswith(b"-LOADING") else Life.SILENT

    return look


def receiver(host: str, port: int) -> Probe:
    """Alive while /livez answers 200, ready when /readyz does."""

    async def look(ready: bool) -> Life:
        if await _status(host, port, "/livez") != 200:
            return Life.SILENT
        if not ready and await _status(host, port, "/readyz") != 200:
            return Life.ALIVE
        return Life.READY

    return look


async def knows(host: str, port: int, source: str) -> bool:
    """Whether the receiver takes callbacks of this source."""
    return await _status(host, port, f"/hooks/{source}") == 200


def both(first: Probe, second: Probe) -> Probe:
    """As alive as the less alive of two."""

    async def look(ready: bool) -> Life:
        return min(await asyncio.gather(first(ready), second(ready)))

    return look


async def _status(host: str, port: int, path: str) -> int | None:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                words = (await reader.readline()).split()
            finally:
                writer.close()
        return int(words[1])
    except (OSError, IndexError, ValueError):
        return None
