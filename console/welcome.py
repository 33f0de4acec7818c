"""What `coursewire up` prints when it is ready: where each source posts to, and how to try it."""

from __future__ import annotations

import json
import secrets
import shlex
from datetime import UTC, datetime

from coursewire.settings import Settings, Source

# The body of the example: a completed course, which reaches every handler.
EXAMPLES = {"digitalchalk": "offering_completed", "toolzz": "activities.course.completed"}


def welcome(settings: Settings, listening: str) -> list[str]:
    """Lines for a terminal. They hold the sources' secrets."""
    lines = [f"Coursewire is ready at {listening}, with its data in {settings.data_dir}.", ""]
    lines += source_lines(settings)
    example = next(
        (source for source in settings.sources.values() if source.provider in EXAMPLES),
        next(iter(settings.sources.values()), None),
    )
    if example is not None:
        lines += ["", f"Try it, as {example.name} would call:", "", curl(settings, example)]
    return [*lines, "", "Ctrl-C stops it."]


def source_lines(settings: Settings) -> list[str]:
    """One line for each source: its name and its callback URL."""
    if not settings.sources:
        return ["There is no source yet: `coursewire sources add` makes one."]
    width = max(map(len, settings.sources))
    return [f"  {source.name:{width}}  {settings.source_url(source)}" for source in settings.sources.values()]


def curl(settings: Settings, source: Source) -> str:
    """A command that works when it is pasted, and posts a new event each time that it is printed."""
    words = ["curl", "-sS", "-H", "Content-Type: application/json"]
    if source.header is not None:
        words += ["-H", f"{source.header}: {source.secrets[0].reveal()}"]
    if source.username is not None:
        words += ["-u", f"{source.username}:{source.passwords[0].reveal()}"]
    words += ["--data-binary", json.dumps(_body(source.provider)), settings.source_url(source)]
    return shlex.join(words)


def _body(provider: str) -> dict[str, object]:
    from schemas.samples import fresh

    if provider not in EXAMPLES:
        return {}
    body = fresh(provider, EXAMPLES[provider], datetime.now(UTC), secrets.token_hex(8))
    if provider == "digitalchalk":  # the documented sample failed, and would earn no certificate
        body["registration"] |= {"grade": 93.0, "passed": True}
    return body
