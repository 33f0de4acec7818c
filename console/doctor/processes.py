"""Whether each queue has a worker and somebody sweeps: by what the processes say in the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy.exc import DBAPIError

from console.doctor.finding import Finding
from console.options import open_existing_ledger
from console.tables import counted
from coursewire.errors import CoursewireError
from coursewire.ledger.engine import reading
from coursewire.ledger.processes import SWEEP, WORKER, Working, working
from coursewire.settings import Settings


def look_at_processes(settings: Settings) -> Iterator[Finding]:
    try:
        with open_existing_ledger(settings) as engine, reading(engine) as db:
            found = working(db)
    except (CoursewireError, DBAPIError):
        return  # said of the ledger
    yield _workers(settings, found)
    yield _sweeps(found)


def _workers(settings: Settings, found: Sequence[Working]) -> Finding:
    from workers.app import known_queues

    workers = [each for each in found if each.kind == WORKER]
    worked = {queue for each in workers for queue in each.queues}
    without = [queue for queue in known_queues(settings) if queue not in worked]
    if without:
        return Finding("workers", "bad", f"nobody works on {', '.join(without)}: see `coursewire worker`")
    return Finding("workers", "good", f"{counted(len(workers), 'worker')} on {_hosts(workers)}")


def _sweeps(found: Sequence[Working]) -> Finding:
    sweeps = [each for each in found if each.kind == SWEEP]
    if not sweeps:
        return Finding("sweep", "bad", "none runs: what a dead worker left, and retries, wait for ever")
    return Finding("sweep", "good", f"{counted(len(sweeps), 'sweep')} on {_hosts(sweeps)}")


def _hosts(found: Sequence[Working]) -> str:
    return ", ".join(sorted({each.host for each in found}))
