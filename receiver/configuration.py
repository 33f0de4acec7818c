"""The part of the configuration that is the receiver's: it must stand before anything listens."""

from __future__ import annotations

import structlog

from coursewire.errors import Code, CoursewireError, InvalidConfiguration, NotFound, sanitized
from coursewire.plugins import PROVIDERS, Provider, load
from coursewire.settings import Settings, Source, load_settings

_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})

log = structlog.get_logger()


def kept_headers(settings: Settings) -> dict[str, frozenset[str]]:
    """By source: the headers that its provider asks for, lower case, and never one that bears a secret.

    Raises `InvalidConfiguration` for a source whose provider is not installed, and `InvalidPlugin`.
    """
    return {name: _kept(source) for name, source in settings.sources.items()}


def _kept(source: Source) -> frozenset[str]:
    try:
        provider = load(PROVIDERS, source.provider, Provider)
    except NotFound as exc:
        raise InvalidConfiguration(f"sources.{source.name}.provider", exc.detail) from exc
    asked = {name.lower() for name in provider.headers}
    return frozenset(asked - _CREDENTIALS - {(source.header or "").lower()})


def read_again(settings: Settings) -> Settings | None:
    """The configuration as it is now. A wrong one is logged, and None: the old one stays."""
    try:
        fresh = load_settings(settings.data_dir)
        kept_headers(fresh)
    except (CoursewireError, OSError) as exc:
        code = exc.code if isinstance(exc, CoursewireError) else Code.INVALID_CONFIGURATION
        log.error("the new configuration is wrong, the old one stays", code=code, error=sanitized(exc))
        return None
    return fresh
