"""Changing the sources in coursewire.toml. What would not load is never written."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.config_file import fresh_token, read, save, write_first
from coursewire.errors import InvalidConfiguration, NotFound
from coursewire.settings import CONFIG_NAME, Settings, build_settings

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

WAYS = ("token", "secret", "password")


def add_source(settings: Settings, name: str, given: dict[str, Any], way: str) -> tuple[Settings, Path]:
    """Add `[sources.<name>]` with a fresh secret under the key `way`; makes the file where there is none.

    Raises `InvalidConfiguration`, or `NotFound` for a provider that is not installed.
    """
    from coursewire.plugins import PROVIDERS, Provider, load

    load(PROVIDERS, given["provider"], Provider)
    path = settings.config_path
    if path is None:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = settings.data_dir / CONFIG_NAME
        write_first(path)
    document = read(path)
    if name in document.get("sources", {}):
        raise InvalidConfiguration(f"sources.{name}", "is there already; `sources rotate` changes its secret")
    document = _with_source(document, name, {**given, way: fresh_token()})
    changed = _loaded(settings, path, document)
    save(path, document)
    return changed, path


def rotate_secret(settings: Settings, name: str) -> Settings:
    """Put a fresh secret in front of the one that is there. Raises `NotFound`, `InvalidConfiguration`."""
    path, document, table, way = _find(settings, name)
    current = table[way]
    if isinstance(current, list):
        if len(current) > 1:
            raise InvalidConfiguration(
                f"sources.{name}.{way}", f"has two values: first `coursewire sources rotate {name} --finish`"
            )
        (current,) = current
    table[way] = [fresh_token(), str(current)]
    changed = _loaded(settings, path, document)
    save(path, document)
    return changed


def finish_rotation(settings: Settings, name: str) -> tuple[Settings, bool]:
    """Drop the older of two secrets; whether there were two."""
    path, document, table, way = _find(settings, name)
    current = table[way]
    if not isinstance(current, list) or len(current) < 2:
        return settings, False
    table[way] = str(current[0])
    changed = _loaded(settings, path, document)
    save(path, document)
    return changed, True


def _find(settings: Settings, name: str) -> tuple[Path, TOMLDocument, Any, str]:
    if settings.config_path is None or name not in settings.sources:
        known = ", ".join(sorted(settings.sources)) or "none"
        raise NotFound(f"there is no source {name}; configured: {known}")
    document = read(settings.config_path)
    table: Any = document["sources"][name]
    way = next(way for way in WAYS if way in table)
    values = table[way] if isinstance(table[way], list) else [table[way]]
    for value in values:
        if str(value).startswith(("env:", "file:")):
            raise InvalidConfiguration(
                f"sources.{name}.{way}",
                f"is given as {str(value).partition(':')[0]}: and kept elsewhere; change it there",
            )
    return settings.config_path, document, table, way


def _with_source(document: TOMLDocument, name: str, values: dict[str, Any]) -> TOMLDocument:
    """At the end of the file: between tables, a new one would part a comment from what it is about."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    addition = tomlkit.document()
    sources = tomlkit.table(is_super_table=True)
    sources[name] = values
    addition["sources"] = sources
    text = f"{tomlkit.dumps(document).rstrip()}\n\n{tomlkit.dumps(addition)}"
    try:
        tomllib.loads(text)
        return tomlkit.parse(text.lstrip())
    except (tomllib.TOMLDecodeError, TOMLKitError):
        # All sources stand in one inline table.
        document["sources"][name] = values
        return document


def _loaded(settings: Settings, path: Path, document: TOMLDocument) -> Settings:
    """The settings as they will be."""
    import tomlkit

    parsed = tomllib.loads(tomlkit.dumps(document))
    return build_settings(parsed, data_dir=settings.data_dir, config_path=path)
