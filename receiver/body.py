"""Reading a body, within bounds."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import Protocol

CHUNK = 1 << 16


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def read(stream: Readable, limit: int) -> bytes:
    """The body as it came, but never more than `limit` + 1 bytes of it. Raises `OSError`."""
    chunks: list[bytes] = []
    left = limit + 1
    while left > 0 and (chunk := stream.read(min(left, CHUNK))):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def decoded(raw: bytes, encoding: str, limit: int) -> bytes:
    """The body without its Content-Encoding, but never more than `limit` + 1 bytes of it.

    What cannot be decoded stays as it came: who sent it is known, and it ends in the quarantine.
    """
    try:
        match encoding.strip().lower():
            case "gzip" | "x-gzip":
                return gzip.GzipFile(fileobj=io.BytesIO(raw)).read(limit + 1)
            case "deflate":
                return _inflate(raw, limit)
    except (OSError, EOFError, zlib.error):
        pass
    return raw


def _inflate(raw: bytes, limit: int) -> bytes:
    """With the zlib header that the RFC asks for, or without it, as some senders do."""
    try:
        return _inflate_as(zlib.MAX_WBITS, raw, limit)
    except zlib.error:
        return _inflate_as(-zlib.MAX_WBITS, raw, limit)


def _inflate_as(window: int, raw: bytes, limit: int) -> bytes:
    inflater = zlib.decompressobj(window)
    body = inflater.decompress(raw, limit + 1)
    if len(body) <= limit and (not inflater.eof or inflater.unused_data):
        raise zlib.error("truncated, or something follows")
    return body
