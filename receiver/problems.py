"""Refusals: what stands in the answer (RFC 9457), and the line that is logged."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson
import structlog
from flask import Response
from werkzeug.exceptions import HTTPException

from coursewire.errors import Code, NotAuthenticated, NotDurable, Refused

RETRY_AFTER_SECONDS = 5

_CODES = {404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED, 413: Code.TOO_LARGE}

log = structlog.get_logger()


def as_refused(error: Exception, *, challenge: str = "Coursewire") -> Refused:
    """Any exception as what the sender is told. Nothing of an unforeseen one is shown."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, NotAuthenticated):
        return Refused(error.code, 401, error.detail, headers={"WWW-Authenticate": challenge})
    if isinstance(error, NotDurable):
        # Why is for our logs: it names our servers and files.
        retry = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        return Refused(error.code, 503, "the callback cannot be kept now; send it again", headers=retry)
    if isinstance(error, HTTPException):
        return _of_the_framework(error)
    log.error("the receiver failed", code=Code.INTERNAL_ERROR, exc_info=error)
    return Refused(Code.INTERNAL_ERROR, 500, "the receiver failed; the callback was not accepted")


def _of_the_framework(error: HTTPException) -> Refused:
    """Its own words are not shown: they may quote the URL."""
    status = HTTPStatus(error.code or 500)
    code = _CODES.get(status, Code.INTERNAL_ERROR if status >= 500 else Code.MALFORMED_REQUEST)
    allowed = getattr(error, "valid_methods", None)
    headers = {"Allow": ", ".join(sorted(allowed))} if allowed else {}
    return Refused(code, status, status.description or status.phrase, headers=headers)


def problem(refused: Refused, **more: Any) -> Response:
    document = {
        "type": f"urn:coursewire:error:{refused.code}",
        "title": HTTPStatus(refused.status).phrase,
        "status": refused.status,
        "code": refused.code,
        "detail": refused.detail,
        **more,
    }
    return Response(
        orjson.dumps(document),
        status=refused.status,
        content_type="application/problem+json",
        headers=refused.headers,
    )
