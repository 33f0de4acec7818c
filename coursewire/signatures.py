"""Whether a request carries its source's secret. No I/O: names, headers and secrets in, a verdict out.

None of these ways looks at the body, so the receiver asks before it reads one and strangers cannot make it
read. A way whose proof is over the body belongs after the read, over the exact bytes.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence

from coursewire.errors import NotAuthenticated
from coursewire.settings import Secret, Source

PATH_TOKEN = "path_token"  # noqa: S105 - the name of a way, no secret
HEADER = "header"
BASIC = "basic"


def verify(source: Source, *, token: str | None, headers: Mapping[str, str]) -> str:
    """The name of the way in which the request proved itself; raises `NotAuthenticated`.

    `token` is the last segment of the path, decoded, or None. Names of `headers` may be in any case; values
    are text as WSGI gives it (each character one byte). A source has exactly one way, and nothing else
    counts: not even a path token beside a right header, since it would be kept in other people's logs.
    """
    if source.tokens:
        if token is not None and _is_one_of(_as_utf8(token), source.tokens):
            return PATH_TOKEN
    elif token is not None:
        raise NotAuthenticated("this source takes no token in the path")
    elif source.header and source.secrets:
        if _is_one_of(_as_sent(_header(headers, source.header)), source.secrets):
            return HEADER
    elif source.username is not None and source.passwords:
        username, password = _basic(_header(headers, "authorization"))
        right_password = _is_one_of(password, source.passwords)
        if hmac.compare_digest(username, _as_utf8(source.username)) and right_password:
            return BASIC
    raise NotAuthenticated


def _is_one_of(given: bytes, secrets: Sequence[Secret]) -> bool:
    """Compares with every secret, so that the time does not tell which one of a rotation was near."""
    return sum([hmac.compare_digest(given, _as_utf8(secret.reveal())) for secret in secrets]) > 0


def _header(headers: Mapping[str, str], name: str) -> str:
    name = name.lower()
    return next((value for key, value in headers.items() if key.lower() == name), "")


def _basic(value: str) -> tuple[bytes, bytes]:
    """User name and password of an Authorization header; empty, which never matches, if it is malformed."""
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "basic":
        return b"", b""
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b"", b""
    username, colon, password = decoded.partition(b":")
    return (username, password) if colon else (b"", b"")


def _as_utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _as_sent(value: str) -> bytes:
    """The bytes of a header: WSGI hands them on as Latin-1."""
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return _as_utf8(value)
