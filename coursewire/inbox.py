"""The inbox: a Redis Stream, synced to disk, that holds every callback until the ledger has it.

There is one consumer group. Its entries belong to one of two constant consumers: `ingest`, for what some
worker has in hand, and `returned`, for what came back without an end and is read again alone. Neither is ever
deleted, so no pending entry can be destroyed with its consumer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import orjson
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry

from coursewire.event import new_id
from coursewire.plugins import Callback

BATCH_BYTES = 4 << 20
# One look fetches at most this many, so that a stream of bodies at the size limit stays bounded in memory.
LOOK = 64
GROUP = "ingest"
IN_HAND = "ingest"
RETURNED = "returned"

# Atomic, so that two workers never get the same entry. XCLAIM counts the read.
_TAKE_RETURNED = """
local out = {}
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[4], ARGV[2])) do
  local claimed = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, pending[1])
  if claimed[1] then out[#out + 1] = {pending[1], pending[4] + 1, claimed[1][2]} end
end
return out
"""


def connect(url: str, *, timeout_seconds: float, connections: int = 8) -> Redis:
    """A client with bounded waits that never repeats a command by itself: a repeated write would double."""
    return Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        max_connections=connections,
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """A callback in the inbox. `reads` counts how often it was read, this time included."""

    id: str
    callback: Callback
    provider: str
    reads: int = 1


@dataclass(frozen=True, slots=True)
class Depth:
    """`appended`: ever, since this stream was made. `oldest`: when the oldest waiting entry was appended."""

    appended: int
    waiting: int
    in_hand: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class Guarantees:
    """What the server does with an append: `durability` is always, everysec, no, none (nothing is written) or
    unknown (it does not tell); `eviction` is its maxmemory-policy or unknown.
    """

    durability: str
    eviction: str

    @property
    def safe(self) -> bool:
        """Whether nothing that is known of the server can lose an append."""
        return self.durability in {"always", "unknown"} and self.eviction in {"noeviction", "unknown"}


def encode(callback: Callback, provider: str) -> dict[bytes, bytes]:
    """The fields of a stream entry: the body as it came, and a compact list of the rest."""
    rest = [
        callback.receipt,
        callback.source,
        provider,
        int(callback.received_at.timestamp() * 1_000_000),
        callback.method,
        callback.content_type,
        callback.remote_address,
        callback.verified_by,
    ]
    if callback.headers:
        rest.append(dict(callback.headers))
    return {b"m": orjson.dumps(rest), b"b": callback.body}


def decode(entry_id: bytes, fields: Sequence[bytes] | dict[bytes, bytes], reads: int = 1) -> Entry:
    named = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
    receipt, source, provider, received, method, content_type, remote, verified, *more = orjson.loads(
        named[b"m"]
    )
    callback = Callback(
        receipt=receipt,
        source=source,
        body=named[b"b"],
        received_at=datetime.fromtimestamp(received / 1_000_000, UTC),
        method=method,
        content_type=content_type,
        headers=more[0] if more else {},
        remote_address=remote,
        verified_by=verified,
    )
    return Entry(entry_id.decode(), callback, provider, reads)


def received_at(meta: bytes) -> datetime:
    """From the field `m` of an entry; see `encode`."""
    return datetime.fromtimestamp(orjson.loads(meta)[3] / 1_000_000, UTC)


class Inbox:
    """Raises redis-py's errors: the caller decides whether to spool, to wait or to give up."""

    def __init__(self, redis: Redis, namespace: str) -> None:
        self.redis = redis
        self.stream = f"{namespace}:inbox"
        self._check_key = f"{namespace}:inbox:check"
        self._generation_key = f"{namespace}:inbox:generation"
        self._take_returned = redis.register_script(_TAKE_RETURNED)

    def close(self) -> None:
        self.redis.close()

    def append(self, entries: Iterable[dict[bytes, bytes]]) -> list[Exception | None]:
        """Append all in one round trip and one disk sync; None for each that is now durable.

        An error of the connection is raised: what was appended is then unknown, and may safely be appended
        again, since a receipt's id makes it one.
        """
        pipe = self.redis.pipeline(transaction=False)
        for fields in entries:
            pipe.xadd(self.stream, cast(Any, fields))
        return [
            reply if isinstance(reply, Exception) else None for reply in pipe.execute(raise_on_error=False)
        ]

    def check(self) -> None:
        """Really write, with the disk sync that an append waits for."""
        self.redis.set(self._check_key, b"1", px=10_000)

    def guarantees(self) -> Guarantees:
        """What the server is configured to do; managed servers may not tell."""
        try:
            found = cast(
                "dict[str, str]",
                self.redis.config_get("appendonly", "appendfsync", "maxmemory-policy"),
            )
        except ResponseError:
            found = {}
        written = {"yes": found.get("appendfsync", "unknown"), "no": "none"}
        return Guarantees(
            durability=written.get(found.get("appendonly", ""), "unknown"),
            eviction=found.get("maxmemory-policy", "unknown"),
        )

    def ensure(self) -> str:
        """Make stream and group where they are missing; the stream's generation.

        The generation is new when the server lost its data. The group starts at 0: nothing is passed over.
        """
        try:
            self.redis.xgroup_create(self.stream, GROUP, id="0", mkstream=True)
        except ResponseError as exc:
            if not str(exc).startswith("BUSYGROUP"):
                raise
        made = new_id()
        if self.redis.set(self._generation_key, made, nx=True):
            return made
        found = cast("bytes | None", self.redis.get(self._generation_key))
        return found.decode() if found else made

    def generation(self) -> str | None:
        """The stream's generation; None where the server has lost its data, or never had any."""
        found = cast("bytes | None", self.redis.get(self._generation_key))
        return found.decode() if found else None

    def read(self, count: int) -> list[Entry]:
        """The oldest entries that nobody has read yet: at most `count`, and about 4 MiB."""
        entries: list[Entry] = []
        size = 0
        while len(entries) < count and size < BATCH_BYTES:
            look = min(LOOK, count - len(entries))
            reply = cast(
                "list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]",
                self.redis.xreadgroup(GROUP, IN_HAND, {self.stream: ">"}, count=look),
            )
            found = [decode(entry, fields) for _, batch in reply for entry, fields in batch]
            entries += found
            size += sum(len(entry.callback.body) for entry in found)
            if len(found) < look:
                break
        return entries

    def read_returned(self, count: int) -> list[Entry]:
        """Entries that came back without an end, with the number of times they were read."""
        reply = self._take_returned(keys=[self.stream], args=[GROUP, RETURNED, IN_HAND, count])
        return [
            decode(entry, fields, int(reads)) for entry, reads, fields in cast("list[Any]", reply) if fields
        ]

    def finish(self, ids: Sequence[str]) -> None:
        """Forget entries that the ledger has.

        XDEL first: a crash between the two leaves a pending id without an entry, which is harmless. No MULTI:
        a full Redis 7.0 refuses it, and then nothing would ever drain.
        """
        if not ids:
            return
        pipe = self.redis.pipeline(transaction=False)
        pipe.xdel(self.stream, *ids)
        pipe.xack(self.stream, GROUP, *ids)
        pipe.execute()

    def give_back(self, entries: Iterable[Entry]) -> None:
        """Return entries without counting this read: what failed was not their fault."""
        pipe = self.redis.pipeline(transaction=False)
        for entry in entries:
            pipe.xclaim(self.stream, GROUP, RETURNED, 0, [entry.id], retrycount=entry.reads - 1, justid=True)
        pipe.execute()

    def in_hand(self) -> Iterator[tuple[str, int]]:
        """Id and number of reads of every entry that a worker has in hand."""
        start = "-"
        while True:
            page = cast(
                "list[dict[str, Any]]",
                self.redis.xpending_range(self.stream, GROUP, start, "+", 1000, IN_HAND),
            )
            for pending in page:
                yield pending["message_id"].decode(), pending["times_delivered"]
            if len(page) < 1000:
                return
            start = f"({page[-1]['message_id'].decode()}"

    def abandon(self, ids: Sequence[str]) -> None:
        """Return entries whose worker is gone. Their reads stay counted."""
        if ids:
            self.redis.xclaim(self.stream, GROUP, RETURNED, 0, list(ids), justid=True)

    def depth(self) -> Depth:
        if not self.redis.exists(self.stream):
            return Depth(0, 0, 0, None)
        info = self.redis.xinfo_stream(self.stream)
        groups = self.redis.xinfo_groups(self.stream)
        first = info["first-entry"]
        return Depth(
            appended=info["entries-added"],
            waiting=info["length"],
            in_hand=sum(group["pending"] for group in groups),
            oldest=datetime.fromtimestamp(int(first[0].split(b"-")[0]) / 1000, UTC) if first else None,
        )
