"""The configuration: one frozen object; a wrong or unknown key stops the process with its name."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from coursewire.errors import InvalidConfiguration
from coursewire.handlers import configured
from coursewire.settings import build_settings, load_settings

TOKEN = {"provider": "digitalchalk", "token": "t"}


def build(document, **overrides):
    return build_settings(document, data_dir=Path("/srv/cw"), overrides=overrides)


def test_without_a_file_everything_is_embedded():
    settings = build({})
    assert settings.redis_url == "unix:///srv/cw/valkey/valkey.sock"
    assert settings.broker_url == "redis+socket:///srv/cw/valkey/valkey.sock"
    assert settings.database_url == "sqlite:////srv/cw/ledger.sqlite3"
    assert settings.embedded_redis
    assert settings.max_body_bytes == 1048576


@pytest.mark.parametrize(
    ("document", "key"),
    [
        ({"colour": "blue"}, "colour"),
        ({"max_body_bytes": "many"}, "max_body_bytes"),
        ({"inbox_timeout_seconds": 60}, "inbox_timeout_seconds"),
        ({"trusted_proxies": ["nowhere"]}, "trusted_proxies"),
        ({"sources": 5}, "sources"),
        ({"sources": {"Big Name": TOKEN}}, "sources.Big Name"),
        ({"sources": {"a": {"provider": "digitalchalk"}}}, "sources.a"),
        ({"sources": {"a": {**TOKEN, "secret": "s", "header": "X"}}}, "sources.a"),
        ({"sources": {"a": {"provider": "digitalchalk", "secret": "s"}}}, "sources.a.header"),
        ({"sources": {"a": {"provider": "digitalchalk", "password": "s"}}}, "sources.a.username"),
        ({"sources": {"a": {**TOKEN, "tokn": "t"}}}, "sources.a.tokn"),
        ({"sources": {"a": {**TOKEN, "token": ["1", "2", "3"]}}}, "sources.a.token"),
        ({"sources": {"a": {**TOKEN, "token": "env:NOT_SET"}}}, "sources.a.token"),
        ({"sources": {"a": {**TOKEN, "token": "two/segments"}}}, "sources.a.token"),
        ({"sources": {"a": {**TOKEN, "token": "file:/not/there"}}}, "sources.a.token"),
        ({"sources": {"a": {**TOKEN, "timezone": "Mars/Base"}}}, "sources.a.timezone"),
        ({"handlers": {"x": {"uses": 5}}}, "handlers.x.uses"),
        ({"handlers": {"x": {"uses": "audit", "batch": 0}}}, "handlers.x.batch"),
        ({"installation_key": "env:NOT_SET"}, "installation_key"),
        ({"database_url": "file:/not/there"}, "database_url"),
        ({"broker_url": "env:NOT_SET"}, "broker_url"),
    ],
)
def test_a_wrong_key_is_named(document, key):
    with pytest.raises(InvalidConfiguration) as caught:
        build(document)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("handler", "key"),
    [
        ({"uses": "nobody"}, "handlers.x.uses"),
        ({"uses": "audit", "colour": "blue"}, "handlers.x.colour"),
        ({"uses": "audit", "events": ["course.complete"]}, "handlers.x.events"),
    ],
)
def test_a_wrong_key_of_a_handler_is_named(handler, key):
    with pytest.raises(InvalidConfiguration) as caught:
        configured(build({"handlers": {"x": handler}}))
    assert caught.value.key == key


def test_a_handler_takes_its_limits_and_events_from_the_configuration():
    given = {"uses": "audit", "batch": 7, "time_limit_seconds": 2, "events": ["course.completed"]}
    handler = configured(build({"handlers": {"x": given}}))["x"]
    assert (handler.plugin.batch, handler.plugin.time_limit_seconds) == (7, 2.0)
    assert handler.wants == {"course.completed"}


def test_secrets_come_literally_from_the_environment_or_from_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("CHALK_TOKEN", "from-env")
    (tmp_path / "secret").write_text("from-file\n")
    tokens = ["env:CHALK_TOKEN", f"file:{tmp_path / 'secret'}"]
    source = build({"sources": {"a": {**TOKEN, "token": tokens}}}).sources["a"]
    assert [token.reveal() for token in source.tokens] == ["from-env", "from-file"]


def test_a_url_comes_from_a_file_or_from_the_environment_too(tmp_path, monkeypatch):
    """It may hold a password."""
    (tmp_path / "ledger").write_text("postgresql://me:hunter2@db/cw\n")
    monkeypatch.setenv("INBOX_URL", "valkey://:hunter2@inbox/0")
    monkeypatch.setenv("COURSEWIRE_DATABASE_URL", f"file:{tmp_path / 'ledger'}")
    settings = build({"redis_url": "env:INBOX_URL"})
    assert settings.database_url == "postgresql+psycopg://me:hunter2@db/cw"
    assert settings.redis_url == settings.broker_url == "redis://:hunter2@inbox/0"


def test_no_secret_shows_in_a_repr():
    document = {
        "redis_url": "redis://:hunter2@db",
        "database_url": "postgresql://me:hunter2@db/cw",
        "installation_key": "hunter2",
        "sources": {"a": {**TOKEN, "token": "hunter2"}},
    }
    assert "hunter2" not in repr(build(document))


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(tmp_path, monkeypatch):
    (tmp_path / "coursewire.toml").write_text('public_url = "https://a.example"\nlog_level = "debug"\n')
    monkeypatch.setenv("COURSEWIRE_PUBLIC_URL", "https://b.example")
    monkeypatch.setenv("COURSEWIRE_TRUSTED_PROXIES", "10.0.0.0/8, 127.0.0.1")
    settings = load_settings(tmp_path)
    assert (settings.public_url, settings.log_level) == ("https://b.example", "debug")
    assert settings.trusted_proxies == (
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_network("127.0.0.1/32"),
    )
    assert load_settings(tmp_path, public_url="https://c.example").public_url == "https://c.example"


def test_the_file_is_the_named_one_else_in_the_data_directory_else_in_the_working_directory(
    tmp_path, monkeypatch
):
    here, data, named = tmp_path / "here", tmp_path / "data", tmp_path / "named.toml"
    for folder in (here, data):
        folder.mkdir()
    monkeypatch.chdir(here)
    assert load_settings(data).config_path is None
    (here / "coursewire.toml").write_text("")
    assert load_settings(data).config_path == Path("coursewire.toml")
    (data / "coursewire.toml").write_text("")
    assert load_settings(data).config_path == data / "coursewire.toml"
    named.write_text("")
    monkeypatch.setenv("COURSEWIRE_CONFIG", str(named))
    assert load_settings(data).config_path == named
    named.unlink()
    with pytest.raises(InvalidConfiguration, match="COURSEWIRE_CONFIG"):
        load_settings(data)


@pytest.mark.parametrize(
    ("given", "redis", "broker"),
    [
        ("valkey://h:1/2", "redis://h:1/2", "redis://h:1/2"),
        ("valkeys://h", "rediss://h", "rediss://h"),
        ("unix:///run/v.sock", "unix:///run/v.sock", "redis+socket:///run/v.sock"),
    ],
)
def test_urls_are_translated_for_the_libraries(given, redis, broker):
    settings = build({"redis_url": given})
    assert (settings.redis_url, settings.broker_url) == (redis, broker)


def test_postgresql_is_spoken_through_psycopg():
    assert build({"database_url": "postgres://h/db"}).database_url == "postgresql+psycopg://h/db"


def test_a_path_too_long_for_a_socket_means_a_loopback_port(tmp_path):
    deep = tmp_path / ("x" * 100)
    assert build_settings({}, data_dir=deep).redis_url.startswith("redis://")
