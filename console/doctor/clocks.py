"""Whether the clocks agree: of this host, of the servers, and of the hosts that work on the ledger.

Leases do not rest on them; times that people see, retries and the age of what waits do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError

from console.doctor.finding import Finding, Status
from console.embedded import running_redis
from console.options import open_existing_ledger
from coursewire.errors import CoursewireError
from coursewire.ledger.engine import reading
from coursewire.ledger.processes import database_now, working
from coursewire.ledger.tables import EPOCH, utc_now
from coursewire.settings import Settings

WARNING = timedelta(seconds=2)
BAD = timedelta(seconds=30)


def look_at_clocks(settings: Settings) -> Iterator[Finding]:
    """One finding: the clock that is farthest from the ledger's or from ours. None where none answers."""
    found: dict[str, timedelta] = {}
    try:
        with open_existing_ledger(settings) as engine, reading(engine) as db:
            found["the ledger's server"] = ahead(lambda: database_now(db))
            for each in working(db):
                found[f"{each.host} ({each.kind})"] = each.ahead
    except (CoursewireError, DBAPIError):
        pass  # said of the ledger
    try:
        with running_redis(settings) as redis:
            found["the inbox's server"] = ahead(lambda: _redis_now(redis))
    except (CoursewireError, RedisError):
        pass  # said of the inbox
    if found:
        yield judged(found)


def judged(found: dict[str, timedelta]) -> Finding:
    farthest = max(found, key=lambda name: abs(found[name]))
    skew = abs(found[farthest])
    status: Status = "bad" if skew > BAD else "warning" if skew > WARNING else "good"
    if status == "good":
        return Finding("clocks", status, f"agree within {WARNING.seconds} s")
    direction = "ahead" if found[farthest] > timedelta() else "behind"
    return Finding("clocks", status, f"{farthest} is {skew.total_seconds():.1f} s {direction}: see to NTP")


def ahead(clock: Callable[[], datetime]) -> timedelta:
    """A clock less ours, as far as the time that asking took lets us know."""
    before = utc_now()
    told = clock()
    after = utc_now()
    if before <= told <= after:
        return timedelta()
    return told - after if told > after else told - before


def _redis_now(redis: Redis) -> datetime:
    seconds, microseconds = redis.time()
    return EPOCH + timedelta(seconds=seconds, microseconds=microseconds)
