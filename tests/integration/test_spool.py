from __future__ import annotations

import fcntl
import sqlite3
import stat
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError

from coursewire.errors import NotDurable
from coursewire.spool import Size, Spool, move


def entry(body: bytes) -> dict[bytes, bytes]:
    return {b"m": b"[0]", b"b": body}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "spool.sqlite3"


@pytest.fixture
def spool(path: Path) -> Iterator[Spool]:
    spool = Spool(path, 1 << 20)
    yield spool
    spool.close()


class MemoryInbox:
    """Takes entries; the n-th call of `append` does what `script` says of it."""

    def __init__(self, *script: object) -> None:
        self.script = list(script)
        self.bodies: list[bytes] = []

    def append(self, entries: Iterable[dict[bytes, bytes]]) -> list[Exception | None]:
        given = [each[b"b"] for each in entries]
        match self.script.pop(0) if self.script else None:
            case Exception() as error:
                raise error
            case list() as outcomes:
                self.bodies += [body for body, error in zip(given, outcomes, strict=True) if error is None]
                return outcomes
            case _:
                self.bodies += given
                return [None] * len(given)


def test_what_was_added_comes_out_oldest_first_and_stays_until_it_is_removed(spool):
    """Entries are kept as they were given, bodies of any bytes among them."""
    spool.add([entry(b"one"), entry(b"\x00\xff")])
    spool.add([entry(b"three")])
    taken = spool.take(10, 1000)
    assert [each for _, each in taken] == [entry(b"one"), entry(b"\x00\xff"), entry(b"three")]
    assert spool.take(10, 1000) == taken
    spool.remove([row for row, _ in taken[:2]])
    assert [each for _, each in spool.take(10, 1000)] == [entry(b"three")]


def test_a_look_is_bounded_in_count_and_in_bytes(spool):
    """It ends with the entry that reaches the bound, so that it never comes back empty."""
    spool.add([entry(b"x" * 100) for _ in range(10)])
    assert len(spool.take(3, 1000)) == 3
    assert len(spool.take(10, 250)) == 3
    assert len(spool.take(10, 1)) == 1


def test_its_size_counts_entries_and_their_bytes(spool):
    """Kept up to date by every change; removing what is gone changes nothing."""
    assert spool.size() == Size(0, 0)
    spool.add([entry(b"12345"), entry(b"1")])
    assert spool.size() == Size(2, 12)
    row = spool.take(1, 1)[0][0]
    spool.remove([row])
    spool.remove([row])
    assert spool.size() == Size(1, 4)


def test_a_full_spool_takes_nothing_of_what_does_not_fit(spool):
    """All of a group, or none of it."""
    spool.add([entry(b"x" * 500_000)])
    with pytest.raises(NotDurable, match="the spool is full"):
        spool.add([entry(b"y"), entry(b"x" * 600_000)])
    assert spool.size().waiting == 1
    spool.add([entry(b"y")])
    assert spool.size().waiting == 2


def test_a_spool_of_size_zero_is_switched_off(path):
    """It says so, and leaves no file."""
    off = Spool(path, 0)
    with pytest.raises(NotDurable, match="switched off"):
        off.add([entry(b"x")])
    with pytest.raises(NotDurable, match="switched off"):
        off.check()
    assert off.size() == Size(0, 0)
    assert not path.exists()


def test_asking_for_its_size_makes_no_file(spool, path):
    """The command line asks while no receiver runs, or ever ran."""
    assert (spool.size(), spool.take(1, 1)) == (Size(0, 0), [])
    assert not path.exists()


def test_it_is_for_its_owner_only_and_synced(spool, path):
    """Bodies hold personal data; an answer is given for what is on the disk."""
    spool.add([entry(b"x")])
    modes = {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    values = [
        spool._connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "secure_delete")
    ]
    assert values == ["wal", 2, 1]


def test_nothing_stays_on_the_disk_of_what_was_removed(spool, path):
    """Deleted bodies are overwritten, the log is emptied and the file shrinks."""
    spool.add([entry(b"PERSONAL-DATA" * 1000) for _ in range(50)])
    while batch := spool.take(10, 1 << 20):
        spool.remove([row for row, _ in batch])
    for file in path.parent.iterdir():
        assert b"PERSONAL-DATA" not in file.read_bytes()
    assert path.stat().st_size < 50_000


def test_several_processes_and_threads_share_it(path):
    """Nothing is lost between two connections, each used by several threads.

    A slow disk may make one wait too long for the other; then it says so, and its entry is not there.
    """
    spools = [Spool(path, 1 << 20), Spool(path, 1 << 20)]
    with ThreadPoolExecutor(8) as pool:
        adding = [pool.submit(spools[n % 2].add, [entry(b"%d" % n)]) for n in range(80)]
    added = [b"%d" % n for n, future in enumerate(adding) if future.exception() is None]
    assert len(added) > 40
    assert spools[0].size() == spools[1].size() == Size(len(added), sum(3 + len(n) for n in added))
    assert {each[b"b"] for _, each in spools[0].take(100, 10_000)} == set(added)
    for each in spools:
        each.close()


def test_a_lock_that_is_held_too_long_is_said(spool, path):
    """A request does not wait for it longer than a second."""
    spool.add([entry(b"x")])
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotDurable, match="locked"):
            spool.add([entry(b"y")])
        other.execute("ROLLBACK")
    other.close()
    spool.add([entry(b"y")])
    assert spool.size().waiting == 2


@pytest.mark.parametrize("method", ["add", "size", "take", "check"])
def test_a_corrupt_file_is_said_clearly(path, method):
    """And is used again when somebody has mended it."""
    path.parent.mkdir()
    path.write_bytes(b"no database at all, but long enough to look at" * 100)
    spool = Spool(path, 1 << 20)
    arguments = {"add": ([entry(b"x")],), "take": (1, 1)}.get(method, ())
    with pytest.raises(NotDurable, match="the spool cannot be used"):
        getattr(spool, method)(*arguments)
    path.unlink()
    spool.add([entry(b"x")])
    assert spool.size().waiting == 1
    spool.close()


def test_a_file_that_was_removed_is_made_anew(spool, path):
    """What went on into the old one would be gone with the process, although it was acknowledged."""
    spool.add([entry(b"old")])
    for file in path.parent.iterdir():
        file.unlink()
    assert spool.size() == Size(0, 0)
    spool.add([entry(b"new")])
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT body FROM entries").fetchall() == [(b"new",)]
    other.close()


def test_a_folder_that_cannot_be_made_is_said_clearly(tmp_path):
    """The receiver then works without a spool."""
    (tmp_path / "file").write_text("")
    with pytest.raises(NotDurable, match="the spool cannot be used"):
        Spool(tmp_path / "file" / "spool.sqlite3", 1 << 20).add([entry(b"x")])


def test_a_check_writes_and_keeps_nothing(spool):
    """It tries what an entry needs."""
    spool.check()
    assert spool.size() == Size(0, 0)
    full = Spool(spool.path, 5)
    full.add([entry(b"12")])
    with pytest.raises(NotDurable, match="full"):
        full.check()
    full.close()


def test_moving_empties_the_spool_into_the_inbox_in_order(spool):
    """What a process left that was killed moves as well, since it is all in the file."""
    spool.add([entry(b"%d" % n) for n in range(1234)])
    inbox = MemoryInbox()
    other = Spool(spool.path, 1 << 20)
    assert move(other, inbox) == 1234
    assert inbox.bodies == [b"%d" % n for n in range(1234)]
    assert spool.size() == Size(0, 0)
    other.close()


def test_moving_without_a_spool_does_nothing(spool):
    """Most receivers never have one."""
    assert move(spool, MemoryInbox(RuntimeError())) == 0


def test_an_entry_leaves_only_after_its_append_returned(spool):
    """A lost connection may have appended it: it is appended again, and its receipt's id makes it one."""
    spool.add([entry(b"one"), entry(b"two")])
    with pytest.raises(RedisConnectionError):
        move(spool, MemoryInbox(RedisConnectionError()))
    assert spool.size().waiting == 2


def test_what_the_inbox_refuses_stays(spool):
    """And what it took of the same batch is gone."""
    spool.add([entry(b"one"), entry(b"two"), entry(b"three")])
    inbox = MemoryInbox([None, OutOfMemoryError("OOM"), None])
    with pytest.raises(OutOfMemoryError):
        move(spool, inbox)
    assert [each[b"b"] for _, each in spool.take(10, 100)] == [b"two"]
    assert move(spool, inbox) == 1
    assert inbox.bodies == [b"one", b"three", b"two"]


def test_one_process_moves_at_a_time(spool):
    """Two would append everything twice."""
    spool.add([entry(b"one")])
    with spool.path.with_name("spool.sqlite3.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert move(spool, MemoryInbox()) == 0
    assert move(spool, MemoryInbox()) == 1


def test_entries_may_come_while_it_is_moved(spool):
    """They are moved as well, in this round or in the next."""
    inbox = MemoryInbox()
    with ThreadPoolExecutor(4) as pool:
        done = threading.Event()

        def mover() -> None:
            while not done.is_set():
                move(spool, inbox)
            move(spool, inbox)

        moving = pool.submit(mover)
        added = [pool.submit(spool.add, [entry(b"%d" % n)]) for n in range(100)]
        for each in added:
            each.result(20)
        done.set()
        moving.result(20)
    assert sorted(inbox.bodies) == sorted(b"%d" % n for n in range(100))
    assert spool.size() == Size(0, 0)
