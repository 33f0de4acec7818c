"""Posting a body as an LMS would: to the source's URL, with its secret, following no redirect."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import orjson

from coursewire.errors import ServerUnreachable
from coursewire.settings import Settings, Source

TIMEOUT_SECONDS = 15.0
ANSWER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """`document` is empty where the answer was no JSON object."""

    status: int
    document: Mapping[str, Any]


def post(
    settings: Settings,
    source: Source,
    body: bytes,
    *,
    base_url: str | None = None,
    method: str = "POST",
    content_type: str = "application/json",
) -> Answer:
    """Raises `ServerUnreachable` where no HTTP answer comes."""
    if base_url is not None:
        settings = replace(settings, public_url=base_url)
    url = settings.source_url(source)
    return request(method, url, body, {"Content-Type": content_type, **_proof(source)})


def request(
    method: str,
    url: str,
    body: bytes | None = None,
    headers: Mapping[str, str | bytes] | None = None,
    *,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Answer:
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    connection: HTTPConnection | None = None
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=timeout_seconds)
        connection.request(method, parts.path or "/", body, headers=dict(headers or {}))
        answer = connection.getresponse()
        return Answer(answer.status, _object(answer.read(ANSWER_BYTES)))
    except (OSError, HTTPException, ValueError) as exc:
        raise ServerUnreachable(f"{where} does not answer: {type(exc).__name__}") from exc
    finally:
        if connection is not None:
            connection.close()


def _proof(source: Source) -> dict[str, str | bytes]:
    if source.header is not None:
        return {source.header: source.secrets[0].reveal().encode()}
    if source.username is not None:
        pair = f"{source.username}:{source.passwords[0].reveal()}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
    return {}


def _object(content: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}
