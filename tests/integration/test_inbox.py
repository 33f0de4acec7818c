"""The inbox on a real Valkey; two inboxes on one stream stand for two processes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError

from coursewire.inbox import BATCH_BYTES, Guarantees, Inbox, connect, decode, encode
from coursewire.plugins import Callback

NOON = datetime(2024, 6, 6, 12, 0, 0, 123456, tzinfo=UTC)


def callback(body: bytes = b"{}", **parts: object) -> Callback:
    return Callback(**{"receipt": "r-1", "source": "chalk", "body": body, "received_at": NOON, **parts})


def entries(*bodies: bytes) -> list[dict[bytes, bytes]]:
    return [encode(callback(body), "digitalchalk") for body in bodies]


def bodies(found: list) -> list[bytes]:
    return [entry.callback.body for entry in found]


@pytest.fixture
def inbox(valkey: str) -> Iterator[Inbox]:
    with connect(valkey, timeout_seconds=5) as redis:
        inbox = Inbox(redis, f"t{uuid4().hex}")
        inbox.ensure()
        yield inbox


@pytest.mark.parametrize(
    "given",
    [
        callback(b"\x00\xff{", headers={"x-event": "çé", "x-id": "7"}, remote_address="2001:db8::1"),
        callback(b"", method="PUT", content_type="", remote_address=None, verified_by="basic"),
    ],
)
def test_what_is_encoded_is_decoded_the_same(given):
    """Bodies of any bytes, times to the microsecond, and what is absent stays absent."""
    assert decode(b"5-0", encode(given, "digitalchalk")).callback == given
    pairs = [part for field in encode(given, "digitalchalk").items() for part in field]
    assert decode(b"5-0", pairs, 3).callback == given
    assert (decode(b"5-0", pairs, 3).provider, decode(b"5-0", pairs, 3).reads) == ("digitalchalk", 3)


def test_appended_entries_are_read_once_oldest_first(inbox):
    """By whoever asks first; what is in hand is not read again."""
    assert inbox.append(entries(b"1", b"2", b"3")) == [None, None, None]
    assert bodies(inbox.read(2)) == [b"1", b"2"]
    assert bodies(Inbox(inbox.redis, inbox.stream.removesuffix(":inbox")).read(2)) == [b"3"]
    assert inbox.read(2) == []


def test_what_was_appended_before_the_group_was_made_is_read(valkey):
    """The receiver may run before the first ingest worker."""
    with connect(valkey, timeout_seconds=5) as redis:
        inbox = Inbox(redis, f"t{uuid4().hex}")
        inbox.append(entries(b"early"))
        inbox.ensure()
        assert bodies(inbox.read(10)) == [b"early"]


def test_a_look_is_bounded_in_bytes(inbox):
    """About 4 MiB, however many are asked for; a look ends at the count as well."""
    inbox.append(entries(*[b"x" * (1 << 20)] * 12))
    inbox.append(entries(*[b"x"] * 200))
    sizes = [sum(map(len, bodies(inbox.read(500)))) for _ in range(3)]
    assert sum(sizes) == (12 << 20) + 200
    assert sizes[0] > BATCH_BYTES
    inbox.append(entries(*[b"x"] * 200))
    assert len(inbox.read(150)) == 150


def test_each_append_has_its_own_outcome(inbox):
    """A refused entry is an error in its place, not an exception for all."""
    inbox.redis.delete(inbox.stream)
    inbox.redis.set(inbox.stream, b"no stream")
    outcomes = inbox.append(entries(b"1", b"2"))
    assert [type(outcome) for outcome in outcomes] == [ResponseError, ResponseError]


def test_a_server_that_is_away_is_an_error_at_once():
    """It is not tried again: the spool takes over."""
    with connect("unix:///nowhere/s", timeout_seconds=1) as redis, pytest.raises(RedisConnectionError):
        Inbox(redis, "t").append(entries(b"1"))


def test_finished_entries_are_gone(inbox):
    """From the stream and from what is pending; nothing twice, and nothing at all, is fine."""
    inbox.append(entries(b"1", b"2"))
    first, _ = inbox.read(10)
    inbox.finish([first.id])
    inbox.finish([first.id])
    inbox.finish([])
    depth = inbox.depth()
    assert (depth.appended, depth.waiting, depth.in_hand) == (2, 1, 1)


def test_abandoned_entries_are_read_again_with_their_reads_counted(inbox):
    """By one worker only, and each read counts."""
    inbox.append(entries(b"1", b"2"))
    read = inbox.read(10)
    assert list(inbox.in_hand()) == [(read[0].id, 1), (read[1].id, 1)]
    inbox.abandon([read[1].id])
    assert list(inbox.in_hand()) == [(read[0].id, 1)]
    again = inbox.read_returned(10)
    assert [(entry.id, entry.callback.body, entry.reads) for entry in again] == [(read[1].id, b"2", 2)]
    assert inbox.read_returned(10) == []
    inbox.abandon([read[1].id])
    assert [entry.reads for entry in inbox.read_returned(10)] == [3]


def test_what_is_given_back_does_not_count_the_read(inbox):
    """A fault of the database is not the entry's."""
    inbox.append(entries(b"1"))
    for _ in range(3):
        read = inbox.read(1) or inbox.read_returned(1)
        assert [entry.reads for entry in read] == [1]
        inbox.give_back(read)
    assert list(inbox.in_hand()) == []


def test_an_entry_that_was_deleted_while_pending_does_not_come_back(inbox):
    """A crash between XDEL and XACK leaves such an id; it hurts nobody."""
    inbox.append(entries(b"1", b"2"))
    read = inbox.read(10)
    inbox.redis.xdel(inbox.stream, read[0].id)
    inbox.abandon([entry.id for entry in read])
    assert bodies(inbox.read_returned(10)) == [b"2"]


def test_in_hand_goes_through_any_number(inbox):
    """Page by page."""
    inbox.append(entries(*[b"%d" % n for n in range(2100)]))
    while inbox.read(500):
        pass
    assert len({entry for entry, _ in inbox.in_hand()}) == 2100


def test_depth_tells_how_much_waits_and_since_when(inbox):
    """`appended` counts for ever, whatever was deleted since."""
    before = datetime.now(UTC)
    inbox.append(entries(b"1"))
    inbox.append(entries(b"2"))
    depth = inbox.depth()
    assert (depth.appended, depth.waiting, depth.in_hand) == (2, 2, 0)
    assert depth.oldest is not None
    assert abs((depth.oldest - before).total_seconds()) < 5
    inbox.finish([entry.id for entry in inbox.read(10)])
    assert (inbox.depth().appended, inbox.depth().waiting, inbox.depth().oldest) == (2, 0, None)


def test_the_depth_of_no_stream_is_nothing(valkey):
    """Before anything was ever received."""
    with connect(valkey, timeout_seconds=5) as redis:
        depth = Inbox(redis, f"t{uuid4().hex}").depth()
        assert (depth.appended, depth.waiting, depth.in_hand, depth.oldest) == (0, 0, 0, None)


def test_the_generation_is_new_when_the_server_lost_its_data(own_valkey):
    """And otherwise the same for everybody, for ever; the stream works again at once."""
    with connect(own_valkey.url, timeout_seconds=5) as redis:
        inbox = Inbox(redis, "t")
        first = inbox.ensure()
        assert Inbox(redis, "t").ensure() == first
        redis.flushall()
        assert inbox.ensure() != first
        inbox.append(entries(b"after"))
        assert bodies(inbox.read(10)) == [b"after"]


def test_a_check_really_writes(own_valkey):
    """So it fails where an append would, and leaves nothing for long."""
    with connect(own_valkey.url, timeout_seconds=5) as redis:
        inbox = Inbox(redis, "t")
        inbox.check()
        assert 0 < redis.pttl("t:inbox:check") <= 10_000
        redis.config_set("maxmemory", "1mb")
        redis.config_set("maxmemory-policy", "noeviction")
        with pytest.raises(OutOfMemoryError):
            inbox.check()
        assert all(isinstance(outcome, ResponseError) for outcome in inbox.append(entries(b"1")))


@pytest.mark.parametrize(
    ("settings", "guarantees", "safe"),
    [
        ({"appendfsync": "always"}, Guarantees("always", "noeviction"), True),
        ({"appendfsync": "everysec"}, Guarantees("everysec", "noeviction"), False),
        ({"appendonly": "no"}, Guarantees("none", "noeviction"), False),
        ({"maxmemory-policy": "allkeys-lru"}, Guarantees("always", "allkeys-lru"), False),
    ],
)
def test_the_guarantees_are_the_servers_own_words(own_valkey, settings, guarantees, safe):
    """Read from its configuration."""
    with connect(own_valkey.url, timeout_seconds=5) as redis:
        for name, value in settings.items():
            redis.config_set(name, value)
        assert Inbox(redis, "t").guarantees() == guarantees
        assert guarantees.safe is safe


def test_a_server_that_does_not_tell_is_unknown(own_valkey):
    """Managed servers forbid CONFIG; nothing is known against them."""
    with connect(own_valkey.url, timeout_seconds=5) as redis:
        redis.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-config")
    with connect(f"{own_valkey.url}?username=app&password=pw", timeout_seconds=5) as redis:
        inbox = Inbox(redis, "t")
        inbox.check()
        assert inbox.guarantees() == Guarantees("unknown", "unknown")
        assert inbox.guarantees().safe


def test_appended_entries_survive_a_kill(own_valkey, until):
    """That is what an answer of 200 rests on."""
    with connect(own_valkey.url, timeout_seconds=5) as redis:
        inbox = Inbox(redis, "t")
        inbox.ensure()
        assert inbox.append(entries(*[b"%d" % n for n in range(100)])) == [None] * 100
        own_valkey.kill()
        with pytest.raises(RedisConnectionError):
            inbox.append(entries(b"lost"))
        own_valkey.start()
        until(lambda: Path(own_valkey.folder, "s").exists() and _answers(inbox), what="Valkey")
        assert bodies(inbox.read(500)) == [b"%d" % n for n in range(100)]


def _answers(inbox: Inbox) -> bool:
    try:
        inbox.check()
    except (RedisConnectionError, ResponseError):
        return False
    return True
