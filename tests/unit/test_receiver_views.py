"""The receiver's answers, over an inbox in memory that keeps the contract of the real one."""

from __future__ import annotations

import gzip
import io
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs
from werkzeug.test import TestResponse

from coursewire.errors import InvalidConfiguration
from coursewire.inbox import Entry, Guarantees, decode
from coursewire.plugins import Callback
from coursewire.settings import build_settings
from coursewire.spool import Spool
from receiver.app import create_app
from receiver.intake import Intake

LIMIT = 2048
# The same bytes in every process: they are part of tests' names.
packed = partial(gzip.compress, mtime=0)
SOURCES = {
    "chalk": {"provider": "digitalchalk", "token": ["token-one", "token-two"]},
    "header": {"provider": "toolzz", "header": "X-Hook-Secret", "secret": "header-secret"},
    "basic": {"provider": "toolzz", "username": "lms", "password": "basic-password"},
}
SECRETS = ["token-one", "token-two", "header-secret", "basic-password"]
URL = "/hooks/chalk/token-one"


class MemoryInbox:
    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.fault: Exception | None = None
        self.promises = Guarantees("always", "noeviction")

    def append(self, entries: Iterable[dict[bytes, bytes]]) -> list[Exception | None]:
        self.check()
        entries = list(entries)
        self.entries += [decode(b"0-1", entry) for entry in entries]
        return [None for _ in entries]

    def check(self) -> None:
        if self.fault is not None:
            raise self.fault

    def close(self) -> None: ...

    def guarantees(self) -> Guarantees:
        return self.promises

    @property
    def last(self) -> Callback:
        return self.entries[-1].callback


class NoHints:
    def send(self, queues: Iterable[str]) -> list[str]:
        return []


@pytest.fixture
def inbox() -> MemoryInbox:
    return MemoryInbox()


@pytest.fixture
def make_client(inbox: MemoryInbox, tmp_path: Path) -> Iterator[Callable[..., FlaskClient]]:
    made: list[Intake] = []

    def make(**top: Any) -> FlaskClient:
        document = {"sources": SOURCES, "max_body_bytes": LIMIT, "spool_max_bytes": 0, **top}
        given = build_settings(document, data_dir=tmp_path)
        spool = Spool(given.spool_path, given.spool_max_bytes)
        made.append(Intake(inbox, spool, NoHints(), inbox_timeout_seconds=1.0))
        made[-1].start()
        return create_app(given, made[-1]).test_client()

    yield make
    for intake in made:
        intake.close()


@pytest.fixture
def client(make_client: Callable[..., FlaskClient]) -> FlaskClient:
    return make_client()


def basic(credentials: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(credentials.encode()).decode()}


def is_problem(answer: TestResponse, status: int, code: str) -> bool:
    document = answer.get_json()
    assert answer.content_type == "application/problem+json"
    assert sorted(document) == ["code", "detail", "status", "title", "type"]
    assert document["type"] == f"urn:coursewire:error:{code}"
    return (answer.status_code, document["status"], document["code"]) == (status, status, code)


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize(
    ("url", "headers", "source", "way"),
    [
        ("/hooks/chalk/token-one", {}, "chalk", "path_token"),
        ("/hooks/chalk/token-two", {}, "chalk", "path_token"),
        ("/hooks/chalk/token-one/", {}, "chalk", "path_token"),
        ("/hooks/header", {"X-Hook-Secret": "header-secret"}, "header", "header"),
        ("/hooks/header/", {"X-Hook-Secret": "header-secret"}, "header", "header"),
        ("/hooks/basic", basic("lms:basic-password"), "basic", "basic"),
        ("/hooks/basic/", basic("lms:basic-password"), "basic", "basic"),
    ],
)
def test_an_authenticated_callback_is_in_the_inbox_when_it_is_answered(
    client, inbox, method, url, headers, source, way
):
    """200 with the receipt's id, by POST or PUT, with or without a trailing slash."""
    answer = client.open(url, method=method, data=b'{"n":1}', headers=headers, content_type="text/x")
    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    assert list(answer.get_json()) == ["receipt"]
    callback = inbox.last
    assert UUID(answer.get_json()["receipt"]).version == 7
    assert callback.receipt == answer.get_json()["receipt"]
    assert (callback.source, callback.verified_by, callback.method) == (source, way, method)
    assert (callback.body, callback.content_type) == (b'{"n":1}', "text/x")
    assert callback.remote_address == "127.0.0.1"
    assert inbox.entries[-1].provider == SOURCES[source]["provider"]


def test_no_credential_goes_further_than_the_receiver(client, inbox):
    """What is appended holds neither token, nor header, nor password."""
    for url, headers in [
        (URL, {}),
        ("/hooks/header", {"X-Hook-Secret": "header-secret"}),
        ("/hooks/basic", basic("lms:basic-password")),
    ]:
        assert client.post(url, data=b"{}", headers=headers).status_code == 200
    assert len(inbox.entries) == 3
    for entry in inbox.entries:
        assert entry.callback.headers == {}
        assert not any(secret in repr(entry) for secret in SECRETS)


@pytest.mark.parametrize(
    ("method", "url", "given", "status", "code"),
    [
        ("POST", "/hooks/nobody", {"data": b"{}"}, 404, "unknown_source"),
        ("POST", "/hooks/nobody/token-one", {"data": b"{}"}, 404, "unknown_source"),
        ("POST", "/hooks/token-one/chalk", {"data": b"{}"}, 404, "unknown_source"),
        ("GET", "/hooks/nobody", {}, 404, "unknown_source"),
        ("POST", "/hooks/chalk", {"data": b"{}"}, 401, "not_authenticated"),
        ("POST", "/hooks/chalk/", {"data": b"{}"}, 401, "not_authenticated"),
        ("PUT", "/hooks/chalk/wrong", {"data": b"{}"}, 401, "not_authenticated"),
        ("POST", "/hooks/chalk/t%C3%B8ken%FF", {"data": b"{}"}, 401, "not_authenticated"),
        ("POST", "/hooks/header", {"data": b"{}"}, 401, "not_authenticated"),
        ("POST", "/hooks/header/header-secret", {"data": b"{}"}, 401, "not_authenticated"),
        ("POST", "/hooks/basic", {"data": b"{}", "headers": basic("lms:x")}, 401, "not_authenticated"),
        ("POST", URL, {"data": b"x" * (LIMIT + 1)}, 413, "too_large"),
        ("POST", URL, {"data": b""}, 400, "empty_body"),
        ("POST", URL, {}, 400, "empty_body"),
        (
            "POST",
            URL,
            {"data": packed(b""), "headers": {"Content-Encoding": "gzip"}},
            400,
            "empty_body",
        ),
        (
            "POST",
            URL,
            {"data": packed(b"x" * (LIMIT + 1)), "headers": {"Content-Encoding": "gzip"}},
            413,
            "too_large",
        ),
        (
            "POST",
            URL,
            {"data": zlib.compress(b"x" * (LIMIT + 1)), "headers": {"Content-Encoding": "deflate"}},
            413,
            "too_large",
        ),
        (
            "POST",
            URL,
            {"data": b"short", "environ_overrides": {"CONTENT_LENGTH": "100"}},
            400,
            "malformed_request",
        ),
        ("GET", "/", {}, 404, "not_found"),
        ("POST", "/hooks", {"data": b"{}"}, 404, "not_found"),
        ("POST", "/hooks/", {"data": b"{}"}, 404, "not_found"),
        ("POST", "/hooks//token-one", {"data": b"{}"}, 404, "not_found"),
        ("POST", "/hooks/chalk//token-one", {"data": b"{}"}, 404, "not_found"),
        ("POST", "/hooks/chalk/token-one/more", {"data": b"{}"}, 404, "not_found"),
        ("POST", "/HOOKS/chalk/token-one", {"data": b"{}"}, 404, "not_found"),
    ],
)
def test_each_refusal_has_its_status_and_code(client, inbox, method, url, given, status, code):
    """As RFC 9457, and nothing is accepted."""
    answer = client.open(url, method=method, **given)
    assert is_problem(answer, status, code)
    assert inbox.entries == []


def test_two_slashes_in_front_are_another_path(client, inbox):
    """Werkzeug's client and router both hide this one: so it is put into the environment."""
    answer = client.post(URL, data=b"{}", environ_overrides={"PATH_INFO": f"/{URL}"})
    assert is_problem(answer, 404, "not_found")
    assert inbox.entries == []


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("url", [URL, "/hooks/chalk", "/hooks/chalk/"])
def test_other_methods_are_told_which_there_are(client, method, url):
    """405 with Allow."""
    answer = client.open(url, method=method)
    assert is_problem(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD, POST, PUT"


@pytest.mark.parametrize("url", ["/hooks/chalk", "/hooks/chalk/", URL, "/hooks/chalk/wrong", "/hooks/basic"])
def test_a_url_check_is_answered_for_a_known_source(client, inbox, url):
    """GET and HEAD say that the source exists and not whether the token is right."""
    assert client.get(url).get_json() == {"source": url.split("/")[2]}
    head = client.head(url)
    assert (head.status_code, head.data) == (200, b"")
    assert inbox.entries == []


def test_a_challenge_names_the_way_in(client):
    """Some HTTP clients send Basic credentials only when they are asked for."""
    asked = client.post("/hooks/basic", data=b"{}").headers["WWW-Authenticate"]
    assert asked == 'Basic realm="coursewire"'
    assert client.post("/hooks/chalk", data=b"{}").headers["WWW-Authenticate"] == "Coursewire"


class Unread(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise AssertionError("the body was read")


@pytest.mark.parametrize(
    ("url", "length", "status"),
    [("/hooks/chalk/wrong", "100", 401), ("/hooks/nobody/x", "100", 404), (URL, f"{LIMIT + 1}", 413)],
)
def test_a_refused_body_is_not_read(client, url, length, status):
    """Strangers cannot make us read, and what says that it is too large is believed."""
    environ = {"wsgi.input": Unread(), "CONTENT_LENGTH": length}
    assert client.post(url, environ_overrides=environ).status_code == status


class Cut(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise OSError("connection reset")


def test_a_body_that_does_not_arrive_is_not_accepted(client, inbox):
    """Some servers raise when the sender hangs up."""
    answer = client.post(URL, environ_overrides={"wsgi.input": Cut(), "CONTENT_LENGTH": "10"})
    assert is_problem(answer, 400, "malformed_request")
    assert inbox.entries == []


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
def test_without_a_length_the_limit_holds(client, size, status):
    """As in a chunked request."""
    environ = {"wsgi.input": io.BytesIO(b"x" * size), "HTTP_TRANSFER_ENCODING": "chunked"}
    assert client.post(URL, environ_overrides=environ).status_code == status


@pytest.mark.parametrize(
    ("encoding", "sent", "kept"),
    [
        ("gzip", packed(b'{"a":1}'), b'{"a":1}'),
        ("deflate", zlib.compress(b'{"a":1}'), b'{"a":1}'),
        ("gzip", b"no gzip", b"no gzip"),
        ("br", b"\x0b\x02\x80", b"\x0b\x02\x80"),
        ("", b"\x00\xff not JSON", b"\x00\xff not JSON"),
        ("", b" ", b" "),
    ],
)
def test_an_authenticated_body_is_never_refused_for_its_content(client, inbox, encoding, sent, kept):
    """Compressed bodies are kept unpacked; what is malformed is kept as it came."""
    answer = client.post(URL, data=sent, headers={"Content-Encoding": encoding})
    assert answer.status_code == 200
    assert inbox.last.body == kept


def test_a_trusted_proxy_says_who_called(make_client, inbox):
    """X-Forwarded-For is believed where the settings say so."""
    client = make_client(trusted_proxies=["127.0.0.0/8"])
    client.post(URL, data=b"{}", headers={"X-Forwarded-For": "203.0.113.1, 198.51.100.7"})
    assert inbox.last.remote_address == "198.51.100.7"


def test_a_stranger_does_not_say_who_called(client, inbox):
    """By default nobody is a trusted proxy."""
    client.post(URL, data=b"{}", headers={"X-Forwarded-For": "198.51.100.7"})
    assert inbox.last.remote_address == "127.0.0.1"


def test_nowhere_durable_is_503_with_retry_after(client, inbox):
    """The sender keeps it and sends again. What is wrong with our servers stays between us."""
    inbox.fault = RedisConnectionError("redis.internal:6379 refused")
    for _ in range(3):
        answer = client.post(URL, data=b"{}")
        assert is_problem(answer, 503, "not_durable")
        assert answer.headers["Retry-After"] == "5"
        assert b"redis" not in answer.data


def test_a_refusal_is_one_log_line_without_secrets(client):
    """Source, code, address and size; never token, path or body, nor a token in the place of the source."""
    with capture_logs() as lines:
        client.post("/hooks/chalk/guessed-token", data=b"personal data")
        client.post("/hooks/token-one/chalk", data=b"personal data")
        client.post(URL, data=b"personal data" * 1000)
        client.delete(URL)
        client.get("/token-one")
        client.post(URL, data=b"short", environ_overrides={"CONTENT_LENGTH": "100"})
    assert [
        (line["event"], line["log_level"], line["source"], line["code"], line["remote_address"], line["size"])
        for line in lines
    ] == [
        ("refused", "warning", "chalk", "not_authenticated", "127.0.0.1", 13),
        ("refused", "warning", "unknown", "unknown_source", "127.0.0.1", 13),
        ("refused", "warning", "chalk", "too_large", "127.0.0.1", 13000),
        ("refused", "warning", "unknown", "method_not_allowed", "127.0.0.1", None),
        ("refused", "warning", "unknown", "not_found", "127.0.0.1", None),
        ("refused", "warning", "chalk", "malformed_request", "127.0.0.1", 5),
    ]
    text = repr(lines)
    assert not any(secret in text for secret in [*SECRETS, "guessed-token", "personal data", "/hooks"])


def test_what_was_accepted_is_not_logged(client):
    """There is no access log: the receipt is in the ledger."""
    with capture_logs() as lines:
        client.post(URL, data=b"{}")
    assert lines == []


def test_each_outcome_is_counted_by_source(client):
    """Sources that are not configured share one label, so that strangers cannot make labels."""
    client.post(URL, data=b"{}")
    client.post(URL, data=b"{}")
    client.post("/hooks/chalk/wrong", data=b"{}")
    client.post("/hooks/stranger-1", data=b"{}")
    client.post("/hooks/stranger-2", data=b"{}")
    text = client.get("/metrics").get_data(as_text=True)
    assert 'coursewire_callbacks_total{outcome="accepted",source="chalk"} 2.0' in text
    assert 'coursewire_callbacks_total{outcome="not_authenticated",source="chalk"} 1.0' in text
    assert 'coursewire_callbacks_total{outcome="unknown_source",source="unknown"} 2.0' in text
    assert "coursewire_answer_seconds_count 5.0" in text
    assert "stranger" not in text


class Broken:
    """An intake with a fault that nobody foresaw, whose message quotes a body."""

    inbox = spool = None

    def accept(self, entry: object) -> None:
        raise RuntimeError("could not handle 'personal data'")


def test_an_unforeseen_fault_is_a_500_that_tells_nothing(tmp_path):
    """A problem for the sender; for us the kind of fault and where it was, without URL, token or body."""
    given = build_settings({"sources": SOURCES}, data_dir=tmp_path)
    with capture_logs() as lines:
        answer = create_app(given, Broken()).test_client().post(URL, data=b"personal data")
    assert is_problem(answer, 500, "internal_error")
    assert b"personal" not in answer.data
    assert [(line["event"], line["code"]) for line in lines] == [
        ("the receiver failed", "internal_error"),
        ("refused", "internal_error"),
    ]
    assert "token-one" not in repr(lines)


def test_livez_asks_nobody(client, inbox):
    """It is about the process alone."""
    inbox.fault = RedisConnectionError()
    assert client.get("/livez").get_json() == {"status": "alive"}


def test_readyz_says_which_durability_there_is(client):
    """From the inbox's own configuration."""
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.get_json() == {
        "status": "ready",
        "inbox": {"reachable": True, "durability": "always", "eviction": "noeviction", "safe": True},
        "spool": {"usable": False, "limit_bytes": 0, "waiting": 0, "bytes": 0},
    }


@pytest.mark.parametrize(
    ("promises", "status"),
    [
        (Guarantees("unknown", "unknown"), "ready"),
        (Guarantees("everysec", "noeviction"), "degraded"),
        (Guarantees("none", "noeviction"), "degraded"),
        (Guarantees("always", "allkeys-lru"), "degraded"),
    ],
)
def test_a_server_that_may_lose_callbacks_is_degraded(client, inbox, promises, status):
    """It takes callbacks, so it is 200; what it does not tell cannot be held against it."""
    inbox.promises = promises
    answer = client.get("/readyz")
    assert (answer.status_code, answer.get_json()["status"]) == (200, status)


def test_readyz_is_degraded_while_only_the_spool_takes_callbacks(make_client, inbox):
    """The sender notices nothing; an operator must."""
    inbox.fault = RedisConnectionError()
    answer = make_client(spool_max_bytes=1 << 20).get("/readyz")
    assert (answer.status_code, answer.get_json()["status"]) == (200, "degraded")
    assert answer.get_json()["inbox"]["reachable"] is False
    assert answer.get_json()["spool"]["usable"] is True


def test_readyz_is_503_when_nothing_takes_callbacks(client, inbox):
    """So that a balancer sends callbacks elsewhere."""
    inbox.fault = RedisConnectionError()
    answer = client.get("/readyz")
    assert (answer.status_code, answer.get_json()["code"]) == (503, "not_durable")
    assert answer.get_json()["inbox"]["reachable"] is False
    assert answer.headers["Retry-After"] == "5"


def test_a_source_with_an_unknown_provider_stops_the_boot(tmp_path, inbox):
    """By the name of the key."""
    given = build_settings({"sources": {"x": {"provider": "nope", "token": "t"}}}, data_dir=tmp_path)
    with pytest.raises(InvalidConfiguration) as error:
        create_app(given, Intake(inbox, Spool(tmp_path / "s", 0), NoHints(), inbox_timeout_seconds=1))
    assert error.value.key == "sources.x.provider"


segments = st.lists(st.sampled_from(["hooks", "chalk", "token-one", "", ".", "..", "%2F", "livez", "é", "%"]))
paths = st.builds("/".join, segments).map(lambda path: f"/{path}") | st.text(min_size=1).map("/{}".format)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    path=paths,
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]),
    headers=st.dictionaries(
        st.sampled_from(["Content-Type", "Content-Encoding", "Authorization", "X-Forwarded-For", "Host"]),
        st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0")),
    ),
    body=st.binary(),
)
def test_no_request_is_redirected_or_breaks_anything(client, path, method, headers, body):
    """Neither 3xx nor 5xx, whatever is asked for."""
    answer = client.open(
        "/", method=method, data=body, headers=headers, environ_overrides={"PATH_INFO": wsgi(path)}
    )
    assert answer.status_code in {200, 400, 401, 404, 405}


def wsgi(path: str) -> str:
    return path.encode("utf-8", "replace").decode("latin-1")
