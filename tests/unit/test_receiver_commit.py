from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from coursewire.errors import NotDurable
from receiver import commit
from receiver.commit import Entry, GroupCommit


class Journal:
    """Writes what it is given, when its gate is open; the entries named in `broken` fail."""

    def __init__(self, *broken: bytes) -> None:
        self.broken = broken
        self.groups: list[list[bytes]] = []
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.fault: Exception | None = None

    def write(self, entries: Sequence[Entry]) -> list[Exception | None]:
        self.entered.set()
        assert self.gate.wait(10)
        if self.fault is not None:
            raise self.fault
        self.groups.append([entry[b"b"] for entry in entries])
        return [ValueError("broken") if entry[b"b"] in self.broken else None for entry in entries]


@pytest.fixture
def journal() -> Journal:
    return Journal(b"bad")


@pytest.fixture
def group(journal: Journal) -> Iterator[GroupCommit]:
    group = GroupCommit("journal", journal.write)
    group.start()
    yield group
    journal.gate.set()
    group.close()


def entry(body: bytes) -> Entry:
    return {b"m": b"[]", b"b": body}


def outcome(group: GroupCommit, body: bytes, seconds: float = 10) -> str:
    try:
        group.commit(entry(body), timeout_seconds=seconds)
    except NotDurable as exc:
        return exc.detail
    return "durable"


def test_what_waits_is_written_at_once_and_each_gets_its_own_outcome(group, journal, until):
    """One write for all that came during the one before; one entry's failure is not its neighbours'."""
    with ThreadPoolExecutor(40) as pool:
        first = pool.submit(outcome, group, b"first")
        assert journal.entered.wait(10)
        others = [pool.submit(outcome, group, b"bad" if n == 7 else b"%d" % n) for n in range(39)]
        until(lambda: group._queue.qsize() == 39)
        journal.gate.set()
        assert first.result() == "durable"
        outcomes = [other.result() for other in others]
    assert [len(written) for written in journal.groups] == [1, 39]
    assert outcomes == ["durable"] * 7 + ["the journal refused"] + ["durable"] * 31


def test_a_write_that_fails_fails_for_all_of_its_group_and_no_other(group, journal):
    """What an exception leaves unknown is not durable for anyone in the group; the next group is its own."""
    journal.gate.set()
    journal.fault = ConnectionError()
    assert outcome(group, b"one") == "the journal refused"
    journal.fault = None
    assert outcome(group, b"two") == "durable"


def test_nobody_waits_longer_than_they_said_and_what_they_gave_up_is_not_written(group, journal):
    """An entry whose turn has not come when its request gives up never gets one."""
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(outcome, group, b"first")
        assert journal.entered.wait(10)
        assert outcome(group, b"impatient", 0.05) == "the journal did not answer in time"
        assert outcome(group, b"late", -1.0) == "the journal did not answer in time"
        journal.gate.set()
        assert first.result() == "durable"
    assert outcome(group, b"last") == "durable"
    assert journal.groups == [[b"first"], [b"last"]]


def test_what_waits_in_memory_is_bounded(group, journal):
    """A server that answers slowly does not fill the memory; one entry always finds room."""
    huge = bytes(commit.WAITING_BYTES)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(outcome, group, huge + b"1")
        assert journal.entered.wait(10)
        assert outcome(group, b"small") == "too much is waiting for the journal"
        journal.gate.set()
        assert first.result() == "durable"
    assert outcome(group, huge) == "durable"


def test_a_group_is_bounded_in_bytes(group, journal, until):
    """About 4 MiB: the server must not be blocked by one huge write."""
    mebibyte = bytes(1 << 20)
    with ThreadPoolExecutor(11) as pool:
        pool.submit(outcome, group, b"first")
        assert journal.entered.wait(10)
        others = [pool.submit(outcome, group, mebibyte) for _ in range(10)]
        until(lambda: group._queue.qsize() == 10)
        journal.gate.set()
        assert {other.result() for other in others} == {"durable"}
    assert [len(written) for written in journal.groups] == [1, 4, 4, 2]


def test_closing_writes_what_waits(journal, until):
    """Nothing that was handed in before is dropped."""
    group = GroupCommit("journal", journal.write)
    group.start()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(outcome, group, b"first")
        assert journal.entered.wait(10)
        second = pool.submit(outcome, group, b"second")
        until(lambda: group._queue.qsize() == 1)
        closing = pool.submit(group.close)
        journal.gate.set()
        closing.result(10)
        assert (first.result(), second.result()) == ("durable", "durable")
