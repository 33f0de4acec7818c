"""For how long inbox and spool hold what comes, at today's rate."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from redis.exceptions import RedisError
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError

from console.doctor.finding import Finding
from console.embedded import running_redis
from console.options import open_existing_ledger
from console.tables import counted
from coursewire.errors import CoursewireError
from coursewire.ledger.engine import reading
from coursewire.ledger.tables import EPOCH, receipts, utc_now
from coursewire.settings import Settings
from coursewire.spool import Spool

DAY_HOURS = 24
# What inbox and spool keep for each callback beside its body: 240 to 360 bytes, with bodies of 1.7 kB.
BESIDE_THE_BODY_BYTES = 360
LITTLE_HOURS = 1.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """Callbacks an hour in the last day, and the mean bytes of one in inbox or spool."""

    hourly: float
    mean_bytes: float


def look_at_capacity(settings: Settings) -> Iterator[Finding]:
    try:
        with open_existing_ledger(settings) as engine, reading(engine) as db:
            traffic = traffic_of(db)
    except (CoursewireError, DBAPIError):
        return  # said of the ledger
    if traffic is None:
        yield Finding("capacity", "good", "no traffic in the last day")
        return
    inbox = _inbox_room(settings)
    if inbox is not None:
        yield lasting("inbox capacity", inbox, traffic)
    if settings.spool_max_bytes and settings.data_dir.is_dir():
        yield lasting("spool capacity", _spool_room(settings), traffic)


def traffic_of(db: Connection) -> Traffic | None:
    # A receipt's id begins with the time at which it was made: an index that is there already.
    day_ago = (utc_now() - timedelta(hours=DAY_HOURS) - EPOCH) // timedelta(milliseconds=1)
    oldest = str(UUID(int=day_ago << 80))
    row = db.execute(select(func.count(), func.avg(receipts.c.size)).where(receipts.c.id >= oldest)).one()
    if not row[0]:
        return None
    return Traffic(row[0] / DAY_HOURS, float(row[1]) + BESIDE_THE_BODY_BYTES)


def lasting(about: str, room_bytes: int, traffic: Traffic) -> Finding:
    """`room_bytes`: what is still free."""
    callbacks = int(room_bytes / traffic.mean_bytes)
    hours = callbacks / traffic.hourly
    detail = (
        f"{counted(callbacks, 'callback')} more: {hours:,.1f} hours at today's rate of"
        f" {traffic.hourly:,.1f} an hour, {traffic.mean_bytes:,.0f} bytes each"
    )
    return Finding(about, "warning" if hours < LITTLE_HOURS else "good", detail)


def _inbox_room(settings: Settings) -> int | None:
    """Free memory; on this host also free disk. None where the server does not tell."""
    try:
        with running_redis(settings) as redis:
            info = redis.info("memory")
    except (CoursewireError, RedisError):
        return None
    limit = int(info.get("maxmemory", 0)) or int(info.get("total_system_memory", 0))
    if not limit:
        return None
    room = max(limit - int(info.get("used_memory", 0)), 0)
    return min(room, _free(settings)) if settings.embedded_redis else room


def _spool_room(settings: Settings) -> int:
    spool = Spool(settings.spool_path, settings.spool_max_bytes)
    try:
        used = spool.size().bytes
    except CoursewireError:
        used = 0  # said of the spool
    finally:
        spool.close()
    return min(max(settings.spool_max_bytes - used, 0), _free(settings))


def _free(settings: Settings) -> int:
    return shutil.disk_usage(settings.data_dir).free
