"""The configuration: one frozen object, read once at start from `coursewire.toml` and the environment.

This is the only file that reads `os.environ`.
"""

from __future__ import annotations

import os
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo, available_timezones

from marshmallow import RAISE, Schema, ValidationError, fields, validate

from coursewire.errors import InvalidConfiguration

CONFIG_NAME = "coursewire.toml"
ENV_PREFIX = "COURSEWIRE_"
# A UNIX socket's path is limited by the kernel (108 bytes on Linux, 104 on macOS).
SOCKET_PATH_BYTES = 100

NAME = validate.Regexp(
    r"\A[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?\Z",
    error="must be at most 64 lower-case letters, digits and inner hyphens",
)


class Secret:
    """A secret that does not show in a repr, a log line or a traceback."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and secrets.compare_digest(
            self._value.encode(), other._value.encode()
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Source:
    """One LMS account that calls us, and how it proves itself.

    Exactly one way: `tokens` in the path, `secrets` in `header`, or HTTP Basic with `username` and
    `passwords`. Each holds one or two values; two while a secret is rotated.
    """

    name: str
    provider: str
    timezone: ZoneInfo | None = None
    tokens: tuple[Secret, ...] = ()
    header: str | None = None
    secrets: tuple[Secret, ...] = ()
    username: str | None = None
    passwords: tuple[Secret, ...] = ()


@dataclass(frozen=True, slots=True)
class HandlerSettings:
    """A configured instance of a handler plug-in: `[handlers.<name>]`.

    `limits` are class attributes of its plug-in that the operator sets otherwise, `options` the plug-in's own
    keys.
    """

    name: str
    uses: str
    events: frozenset[str] | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    data_dir: Path
    # URLs may hold passwords.
    redis_url: str = field(repr=False)
    database_url: str = field(repr=False)
    broker_url: str = field(repr=False)
    public_url: str
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    namespace: str
    installation_key: Secret | None
    max_body_bytes: int
    inbox_timeout_seconds: float
    spool_max_bytes: int
    receiver_workers: int
    ingest_batch: int
    ingest_time_limit_seconds: float
    lease_margin_seconds: float
    sweep_interval_seconds: float
    log_level: str
    sources: Mapping[str, Source]
    handlers: Mapping[str, HandlerSettings]
    config_path: Path | None = None

    @property
    def spool_path(self) -> Path:
        return self.data_dir / "spool.sqlite3"

    @property
    def embedded_redis(self) -> bool:
        """Whether the inbox is the server that `coursewire up` starts itself."""
        return self.redis_url == embedded_redis_url(self.data_dir)

    def source_url(self, source: Source) -> str:
        """Where this source's callbacks are posted to; holds the path token where there is one."""
        url = f"{self.public_url.rstrip('/')}/hooks/{source.name}"
        return f"{url}/{quote(source.tokens[0].reveal(), safe='')}" if source.tokens else url


def option(default: Any, meaning: str) -> dict[str, Any]:
    return {"load_default": default, "metadata": {"help": meaning}}


class TopLevel(Schema):
    """The top-level keys. Each may be given as `COURSEWIRE_<KEY>` in the environment, which wins."""

    class Meta:
        unknown = RAISE

    redis_url = fields.String(
        **option(None, "Valkey or Redis ≥ 7.0 of the inbox; without it `up` starts its own")
    )
    database_url = fields.String(
        **option(None, "SQLAlchemy URL of the ledger; without it SQLite in the data directory")
    )
    broker_url = fields.String(**option(None, "Celery broker of the hints; without it the inbox's server"))
    public_url = fields.Url(
        schemes={"http", "https"},
        require_tld=False,
        **option(None, "how senders reach the receiver, for printed URLs; without it the address of `up`"),
    )
    trusted_proxies = fields.Raw(
        **option([], 'networks whose X-Forwarded-For is believed, e.g. `["10.0.0.0/8"]`')
    )
    namespace = fields.String(
        validate=NAME, **option("coursewire", "prefix of all names in Redis and in the broker")
    )
    installation_key = fields.String(
        **option(None, "secret under which keys are hashed; without it a file in the data directory")
    )
    max_body_bytes = fields.Integer(
        validate=validate.Range(1024, 64 << 20), **option(1 << 20, "largest body taken, after decompression")
    )
    inbox_timeout_seconds = fields.Float(
        validate=validate.Range(0.05, 1.5), **option(1.0, "how long the receiver waits for the inbox")
    )
    spool_max_bytes = fields.Integer(
        validate=validate.Range(0),
        **option(1 << 30, "largest spool while the inbox is away; 0 switches it off"),
    )
    receiver_workers = fields.Integer(
        validate=validate.Range(1, 64), **option(1, "processes of the receiver")
    )
    ingest_batch = fields.Integer(
        validate=validate.Range(1, 5000), **option(500, "most callbacks ingested in one transaction")
    )
    ingest_time_limit_seconds = fields.Float(
        validate=validate.Range(1), **option(30.0, "an ingest task that runs longer is killed")
    )
    lease_margin_seconds = fields.Float(
        validate=validate.Range(0.5),
        **option(5.0, "how much longer than its time limit a claim is respected"),
    )
    sweep_interval_seconds = fields.Float(
        validate=validate.Range(0.1, 60), **option(1.0, "pause between two looks of the sweep")
    )
    log_level = fields.String(
        validate=validate.OneOf(["debug", "info", "warning", "error"]),
        **option("info", "lowest level logged"),
    )


class TwoSecrets(fields.Field[tuple[Secret, ...]]):
    """One secret, or a list of two while it is rotated; literal, `env:NAME` or `file:PATH`."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[Secret, ...]:
        given = value if isinstance(value, list) else [value]
        if not 1 <= len(given) <= 2:
            raise ValidationError("must be one secret or a list of two")
        return tuple(Secret(resolve_secret(item)) for item in given)


class SourceSchema(Schema):
    class Meta:
        unknown = RAISE

    provider = fields.String(required=True)
    timezone = fields.String(load_default=None)
    token = TwoSecrets(load_default=())
    secret = TwoSecrets(load_default=())
    header = fields.String(load_default=None)
    username = fields.String(load_default=None)
    password = TwoSecrets(load_default=())


class HandlerSchema(Schema):
    """The keys that every handler takes; what is not among them belongs to its plug-in."""

    uses = fields.String(metadata={"help": "the plug-in; without it, that of the handler's name"})
    events = fields.List(
        fields.String(), metadata={"help": "event types it gets instead of its plug-in's choice"}
    )
    time_limit_seconds = fields.Float(
        validate=validate.Range(0.5), metadata={"help": "a task that runs longer is killed"}
    )
    max_attempts = fields.Integer(
        validate=validate.Range(1), metadata={"help": "failed attempts until a delivery is dead"}
    )
    max_crashes = fields.Integer(
        validate=validate.Range(1), metadata={"help": "attempts without a verdict until it is dead"}
    )
    batch = fields.Integer(
        validate=validate.Range(1, 5000), metadata={"help": "most deliveries claimed at once"}
    )
    concurrency = fields.Integer(
        validate=validate.Range(1, 200),
        metadata={"help": "how many a worker process sends at once, for `send` handlers"},
    )


def resolve_secret(text: Any) -> str:
    """The value behind a literal, `env:NAME` or `file:PATH`. Raises `ValidationError`."""
    if not isinstance(text, str):
        raise ValidationError("must be a string")
    value = text
    if text.startswith("env:"):
        value = os.environ.get(text[4:], "")
        if not value:
            raise ValidationError(f"the environment variable {text[4:]} is not set")
    elif text.startswith("file:"):
        try:
            value = Path(text[5:]).read_text(encoding="utf-8").strip()
        except OSError as exc:
            raise ValidationError(f"the file {text[5:]} cannot be read: {exc.strerror}") from exc
    if not value:
        raise ValidationError("must not be empty")
    return value


def data_dir_from_environment() -> Path:
    return Path(os.environ.get(f"{ENV_PREFIX}DATA_DIR") or ".coursewire")


def embedded_socket(data_dir: Path) -> Path:
    return data_dir.absolute() / "valkey" / "valkey.sock"


def embedded_redis_url(data_dir: Path) -> str:
    """Where the embedded server listens: a UNIX socket, or the loopback port that it wrote down.

    A path that is too long for a socket is the only reason for a port. Every local user reaches a port, so
    its file, which only the owner can read, holds a password as well: `<port> <password>`.
    """
    socket = embedded_socket(data_dir)
    if len(os.fsencode(socket)) <= SOCKET_PATH_BYTES:
        return f"unix://{socket}"
    try:
        port, password = embedded_port_file(data_dir).read_text(encoding="ascii").split()
    except FileNotFoundError:
        return "redis://127.0.0.1:0/0"
    return f"redis://:{password}@127.0.0.1:{port}/0"


def embedded_port_file(data_dir: Path) -> Path:
    return data_dir.absolute() / "valkey" / "port"


def receiver_url_file(data_dir: Path) -> Path:
    """Where `coursewire up` writes how its receiver is reached."""
    return data_dir.absolute() / "run" / "url"


def receiver_url(data_dir: Path) -> str:
    """How this data directory's receiver is reached from this host; the default address where none ran."""
    try:
        return receiver_url_file(data_dir).read_text(encoding="ascii").strip()
    except OSError:
        return "http://127.0.0.1:8000"


def find_config(data_dir: Path) -> Path | None:
    """`COURSEWIRE_CONFIG`, else in the data directory, else in the working directory."""
    named = os.environ.get(f"{ENV_PREFIX}CONFIG")
    if named:
        if not Path(named).is_file():
            raise InvalidConfiguration(f"{ENV_PREFIX}CONFIG", f"there is no file {named}")
        return Path(named)
    for folder in (data_dir, Path()):
        if (folder / CONFIG_NAME).is_file():
            return folder / CONFIG_NAME
    return None


def load_settings(data_dir: Path | None = None, **overrides: Any) -> Settings:
    """Read the configuration. `overrides` are top-level keys that a command line option gives.

    Raises `InvalidConfiguration` with the dotted name of the first wrong key.
    """
    data_dir = (data_dir or data_dir_from_environment()).absolute()
    path = find_config(data_dir)
    document: dict[str, Any] = {}
    if path is not None:
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise InvalidConfiguration(str(path), f"is no TOML: {exc}") from exc
    return build_settings(document, data_dir=data_dir, config_path=path, overrides=overrides)


def build_settings(
    document: Mapping[str, Any],
    *,
    data_dir: Path,
    config_path: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    given = dict(document)
    sources = _section(given, "sources")
    handlers = _section(given, "handlers")
    given |= _from_environment()
    given |= {key: value for key, value in (overrides or {}).items() if value is not None}
    top = _load(TopLevel(), given, "")
    # They may hold passwords, so they may come from files as well.
    urls = {key: _resolved(key, top.pop(key)) for key in ("redis_url", "broker_url", "database_url")}
    redis_url = _redis_scheme(urls["redis_url"] or embedded_redis_url(data_dir))
    broker_url = _kombu_socket(_redis_scheme(urls["broker_url"] or redis_url))
    database_url = urls["database_url"] or f"sqlite:///{data_dir / 'ledger.sqlite3'}"
    installation_key = top.pop("installation_key")
    return Settings(
        data_dir=data_dir,
        redis_url=redis_url,
        broker_url=broker_url,
        database_url=_psycopg(database_url),
        public_url=top.pop("public_url") or receiver_url(data_dir),
        trusted_proxies=_networks(top.pop("trusted_proxies")),
        installation_key=_secret("installation_key", installation_key),
        sources={name: _source(name, raw) for name, raw in sources.items()},
        handlers={name: _handler(name, raw) for name, raw in handlers.items()},
        config_path=config_path,
        **top,
    )


def _section(given: dict[str, Any], name: str) -> Mapping[str, Any]:
    section = given.pop(name, {})
    if not isinstance(section, dict):
        raise InvalidConfiguration(name, "must be a table")
    for key, value in section.items():
        try:
            NAME(key)
        except ValidationError as exc:
            raise InvalidConfiguration(f"{name}.{key}", f"as a name {exc.messages[0]}") from exc
        if not isinstance(value, dict):
            raise InvalidConfiguration(f"{name}.{key}", "must be a table")
    return section


def _from_environment() -> dict[str, str]:
    names = {f"{ENV_PREFIX}{key.upper()}": key for key in TopLevel().fields}
    return {key: os.environ[name] for name, key in names.items() if os.environ.get(name)}


def _load(schema: Schema, raw: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = schema.load(raw)
    except ValidationError as exc:
        key, messages = next(iter(exc.messages_dict.items()))
        raise InvalidConfiguration(f"{prefix}{key}", _first(messages)) from exc
    return loaded


def _first(messages: Any) -> str:
    while isinstance(messages, dict):
        messages = next(iter(messages.values()))
    return str(messages[0]) if isinstance(messages, list) else str(messages)


def _secret(key: str, text: str | None) -> Secret | None:
    value = _resolved(key, text)
    return None if value is None else Secret(value)


def _resolved(key: str, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return resolve_secret(text)
    except ValidationError as exc:
        raise InvalidConfiguration(key, str(exc.messages[0])) from exc


def _source(name: str, raw: Mapping[str, Any]) -> Source:
    prefix = f"sources.{name}."
    loaded = _load(SourceSchema(), raw, prefix)
    zone = loaded["timezone"]
    if zone is not None and zone not in available_timezones():
        raise InvalidConfiguration(f"{prefix}timezone", f"there is no time zone {zone!r}")
    ways = [way for way in ("token", "secret", "password") if loaded[way]]
    if len(ways) != 1:
        raise InvalidConfiguration(
            f"sources.{name}",
            "needs exactly one of token, secret (with header) or password (with username), "
            f"not {' and '.join(ways) or 'none'}",
        )
    if any("/" in token.reveal() for token in loaded["token"]):
        raise InvalidConfiguration(f"{prefix}token", "must have no slash: it is one segment of a path")
    for way, partner in (("secret", "header"), ("password", "username")):
        if bool(loaded[way]) != bool(loaded[partner]):
            raise InvalidConfiguration(f"{prefix}{partner}", f"belongs together with {way}")
    return Source(
        name=name,
        provider=loaded["provider"],
        timezone=ZoneInfo(zone) if zone else None,
        tokens=loaded["token"],
        header=loaded["header"],
        secrets=loaded["secret"],
        username=loaded["username"],
        passwords=loaded["password"],
    )


def _handler(name: str, raw: Mapping[str, Any]) -> HandlerSettings:
    schema = HandlerSchema()
    loaded = _load(schema, {key: raw[key] for key in raw if key in schema.fields}, f"handlers.{name}.")
    events = loaded.pop("events", None)
    return HandlerSettings(
        name=name,
        uses=loaded.pop("uses", name),
        events=None if events is None else frozenset(events),
        limits=loaded,
        options={key: raw[key] for key in raw if key not in schema.fields},
    )


def _networks(given: Any) -> tuple[IPv4Network | IPv6Network, ...]:
    parts = given.split(",") if isinstance(given, str) else given
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise InvalidConfiguration("trusted_proxies", "must be a list of networks")
    try:
        return tuple(ip_network(part.strip(), strict=False) for part in parts if part.strip())
    except ValueError as exc:
        raise InvalidConfiguration("trusted_proxies", str(exc)) from exc


def _redis_scheme(url: str) -> str:
    """Valkey's own scheme is translated: neither redis-py nor kombu knows it."""
    for scheme, known in (("valkeys://", "rediss://"), ("valkey://", "redis://")):
        if url.startswith(scheme):
            return known + url.removeprefix(scheme)
    return url


def _kombu_socket(url: str) -> str:
    """redis-py says `unix://`, kombu `redis+socket://`."""
    return "redis+socket://" + url.removeprefix("unix://") if url.startswith("unix://") else url


def _psycopg(url: str) -> str:
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url
