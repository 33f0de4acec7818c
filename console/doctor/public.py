"""Asking each source's public URL, as its LMS would."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from console.doctor.finding import Finding
from console.posting import request
from coursewire.errors import CoursewireError
from coursewire.settings import Settings, Source

TIMEOUT_SECONDS = 10.0


def look_from_outside(settings: Settings) -> Iterator[Finding]:
    for source in settings.sources.values():
        yield _ask(settings, source)


def _ask(settings: Settings, source: Source) -> Finding:
    """The URL holds a token, so it is not shown."""
    try:
        answer = request("GET", settings.source_url(source), timeout_seconds=TIMEOUT_SECONDS)
    except CoursewireError as exc:
        cause = exc.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _bad(source, f"the certificate is not valid: {cause.verify_message}")
        return _bad(source, exc.detail)
    if 300 <= answer.status < 400:
        return _bad(source, f"redirects ({answer.status}): few senders follow with their body")
    if answer.status != 200:
        return _bad(source, f"answers {answer.status}")
    if answer.document.get("source") != source.name:
        return _bad(source, "something else than Coursewire answers there")
    return Finding("public", "good", f"{source.name}: reached at {settings.public_url}")


def _bad(source: Source, why: str) -> Finding:
    return Finding("public", "bad", f"{source.name}: {why}")
