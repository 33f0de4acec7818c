"""Looking at the servers: the inbox, the broker and the receiver."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from console.doctor.finding import Finding, Status
from console.doctor.ledger import belongs_to
from console.tables import age
from console.valkey import OLDEST_MAJOR
from coursewire.errors import CoursewireError, sanitized
from coursewire.ledger.tables import utc_now
from coursewire.settings import Settings

if TYPE_CHECKING:
    from redis import Redis

    from coursewire.inbox import Inbox

BROKER_SECONDS = 3
FULL = 0.8


def look_at_inbox(settings: Settings) -> Iterator[Finding]:
    from redis.exceptions import RedisError

    from console.embedded import running_redis
    from coursewire.inbox import Inbox

    try:
        with running_redis(settings) as redis:
            inbox = Inbox(redis, settings.namespace)
            inbox.check()
            yield _version(redis)
            yield from _guarantees(inbox)
            yield from _memory(redis)
            yield _depth(inbox)
            belonging = belongs_to(settings, inbox.generation())
            if belonging is not None:
                yield belonging
    except CoursewireError as exc:
        yield Finding("inbox", "bad", exc.detail)
    except RedisError as exc:
        word = str(exc).partition(" ")[0]
        yield Finding("inbox", "bad", f"takes nothing: {word if word.isupper() else type(exc).__name__}")


def look_at_spool(settings: Settings) -> Finding:
    from coursewire.spool import Spool

    if settings.spool_max_bytes == 0:
        return Finding("spool", "warning", "is switched off: without the inbox every callback is refused")
    spool = Spool(settings.spool_path, settings.spool_max_bytes)
    try:
        waiting = spool.size().waiting
    except CoursewireError as exc:
        return Finding("spool", "bad", exc.detail)
    finally:
        spool.close()
    if waiting:
        detail = f"{waiting:,} callbacks wait for the inbox; the receiver moves them"
        return Finding("spool", "warning", detail)
    return Finding("spool", "good", "is empty")


def look_at_broker(settings: Settings) -> Finding:
    from coursewire.hints import make_celery

    if settings.broker_url.removeprefix("redis+socket://") == settings.redis_url.removeprefix("unix://"):
        return Finding("broker", "good", "is the inbox's server")
    app = make_celery(settings)
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=BROKER_SECONDS)
    except Exception as exc:  # noqa: BLE001 - redis, kombu and amqp errors have no common root
        return Finding("broker", "bad", f"does not answer: {sanitized(exc)}")
    finally:
        app.close()
    return Finding("broker", "good", "answers")


def look_at_receiver(settings: Settings) -> Finding:
    from console.posting import request

    url = f"{settings.public_url.rstrip('/')}/readyz"
    try:
        answer = request("GET", url, timeout_seconds=5.0)
    except CoursewireError as exc:
        return Finding("receiver", "bad", f"{exc.detail}; `coursewire up` starts it")
    status = str(answer.document.get("status", ""))
    if answer.status == 200 and status == "ready":
        return Finding("receiver", "good", f"is ready at {settings.public_url}")
    verdict: Status = "warning" if answer.status == 200 and status else "bad"
    return Finding("receiver", verdict, f"{url} says {answer.status} {status}".rstrip())


def _version(redis: Redis) -> Finding:
    info = redis.info("server")
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version") or info.get("redis_version") or "of an unknown version")
    # Valkey goes on telling the version of Redis that it is compatible with.
    compatible = str(info.get("redis_version") or version).partition(".")[0]
    if compatible.isdigit() and int(compatible) < OLDEST_MAJOR:
        return Finding("inbox", "bad", f"{name} {version} is too old: {OLDEST_MAJOR}.0 or later is needed")
    return Finding("inbox", "good", f"{name} {version} answers")


def _guarantees(inbox: Inbox) -> Iterator[Finding]:
    found = inbox.guarantees()
    if found.durability == "always":
        yield Finding("durability", "good", "every append is on disk before it is acknowledged")
    elif found.durability == "unknown":
        yield Finding("durability", "warning", "the server does not tell; it should have appendfsync always")
    else:
        yield Finding("durability", "bad", f"{found.durability}: a crash loses acknowledged callbacks")
    if found.eviction == "unknown":
        yield Finding("eviction", "warning", "the server does not tell; it must not evict")
    elif found.eviction != "noeviction":
        yield Finding("eviction", "bad", f"{found.eviction}: a full server would drop the inbox")
    else:
        yield Finding("eviction", "good", "a full server refuses rather than drops")


def _memory(redis: Redis) -> Iterator[Finding]:
    info = redis.info("memory")
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if limit and used > FULL * limit:
        yield Finding("inbox memory", "warning", f"{used / limit:.0%} of maxmemory are used")


def _depth(inbox: Inbox) -> Finding:
    depth = inbox.depth()
    if not depth.waiting or depth.oldest is None:
        return Finding("backlog", "good", "the inbox is empty")
    oldest = max((utc_now() - depth.oldest) / timedelta(seconds=1), 0.0)
    detail = f"{depth.waiting:,} callbacks wait in the inbox, the oldest for {age(oldest)}"
    return Finding("backlog", "warning" if oldest > 60 else "good", detail)
