"""Removing the secrets that an LMS puts into its bodies, whatever state the body is in."""

from __future__ import annotations

import re
from typing import Any

import orjson

REDACTED = "[redacted]"
# orjson reads 1024 levels, but Python's own recursion ends earlier.
DEEPEST = 200

_ALREADY = b'"[redacted]"'
_STRING = re.compile(rb"\\*\"")
_QUOTE_OR_ESCAPE = {quote: re.compile(rb"\\.|" + quote, re.DOTALL) for quote in (b'"', b"'")}
# NUL may stand between, as in UTF-16.
_ENDS_A_STRING = re.compile(rb"[\s\x00]*(?:[,}\]]|\Z)")
_BARE = re.compile(rb"[^,;&}\]\r\n]*")


class Secrets:
    """The names of fields whose values nobody may keep, in any letter case and at any depth."""

    def __init__(self, *names: str) -> None:
        self.names = frozenset(name.lower() for name in names)
        key = "|".join("".join(map(_letter, name)) for name in sorted(self.names)).encode()
        # Without one of these there is nothing to look for: the case of nearly every body.
        self._hints = (*(name.encode() for name in sorted(self.names)), b"\\u00", b"\0")
        self._field = re.compile(
            rb"(?:" + key + rb")\\*[\"']?[\s\x00]*[:=][\s\x00]*", re.IGNORECASE | re.DOTALL
        )

    def redact(self, body: bytes) -> bytes:
        """The body without the secrets; byte for byte the same when it has none. Takes any bytes.

        A body that parses is redacted by its structure and written anew; any other by what looks like the
        field, and there rather too much goes than too little.
        """
        lowered = body.lower()
        if not self.names or not any(hint in lowered for hint in self._hints):
            return body
        try:
            document = orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))
            removed = self.removed(document)
            # Of a name that stands twice in one object only the last is parsed; writing anew drops the other.
            unseen = removed is document and not self._field.search(body)
            return body if unseen else orjson.dumps(removed)
        except (orjson.JSONDecodeError, RecursionError, TypeError):
            return self._redact_text(body)

    def _redact_text(self, body: bytes) -> bytes:
        kept = []
        position = 0
        while (field := self._field.search(body, position)) is not None:
            kept += [body[position : field.end()], _ALREADY]
            position = _value_end(body, field.end())
        return b"".join([*kept, body[position:]])

    def removed(self, value: Any) -> Any:
        """Parsed JSON without the secrets; the same object when it has none."""
        return self._removed(value, DEEPEST) if self.names else value

    def _removed(self, value: Any, levels: int) -> Any:
        if levels == 0:
            raise RecursionError("deeper than a body may be")
        if type(value) is dict:
            changed = {}
            for name, inner in value.items():
                if inner is not None and inner != REDACTED and name.lower() in self.names:
                    changed[name] = REDACTED
                elif type(inner) is dict or type(inner) is list:
                    new = self._removed(inner, levels - 1)
                    if new is not inner:
                        changed[name] = new
            return {**value, **changed} if changed else value
        if type(value) is list:
            new_list = [self._removed(inner, levels - 1) for inner in value]
            return new_list if any(a is not b for a, b in zip(new_list, value, strict=True)) else value
        return value


def _value_end(body: bytes, start: int) -> int:
    """Where the value ends that begins at `start` of a body that does not parse. In linear time.

    A value is a string, an object or array (everything after it goes), or bare words. A string may be cut off
    at the end of the body, and a quote within it may be the very thing that is not escaped: it ends where
    what follows could follow a string. What is redacted already is left, so that twice changes nothing.
    """
    if body.startswith(_ALREADY, start):
        return start + len(_ALREADY)
    if body[start : start + 1] in (b"[", b"{"):
        return len(body)
    opening = _STRING.match(body, start)
    if opening is not None:
        return _string_end(body, opening.end(), b'"')
    if body.startswith(b"'", start):
        return _string_end(body, start + 1, b"'")
    bare = _BARE.match(body, start)
    return bare.end() if bare else start


def _string_end(body: bytes, start: int, quote: bytes) -> int:
    for found in _QUOTE_OR_ESCAPE[quote].finditer(body, start):
        if found.group() == quote and (quote == b"'" or _ENDS_A_STRING.match(body, found.end())):
            return found.end()
    return len(body)


def _letter(character: str) -> str:
    """A letter of a field's name as it may be written in JSON: itself or its escape, of either case."""
    codes = "|".join(f"{ord(case):02x}" for case in sorted({character.lower(), character.upper()}))
    return rf"(?:{re.escape(character)}|\\u00(?:{codes}))\x00*"
