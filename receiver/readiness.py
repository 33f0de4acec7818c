"""Whether a callback would find a place now, and how safe that place is."""

from __future__ import annotations

import threading
import time
from typing import Any

from redis.exceptions import RedisError

from coursewire.errors import NotDurable
from coursewire.inbox import Inbox
from coursewire.spool import Spool

READY = "ready"
DEGRADED = "degraded"
"""Callbacks are taken, but not as it should be: only by the spool, or by a server that may lose them."""
UNREADY = "unready"
"""Nothing takes callbacks."""

# Anyone may ask, and each look costs two disk syncs.
FRESH_SECONDS = 0.2


class Readiness:
    def __init__(self, inbox: Inbox, spool: Spool) -> None:
        self._inbox = inbox
        self._spool = spool
        self._lock = threading.Lock()
        self._report: dict[str, Any] = {}
        self._looked_at = float("-inf")

    def report(self) -> dict[str, Any]:
        """`status`, and what `inbox` and `spool` say when they are really tried."""
        with self._lock:
            if time.monotonic() - self._looked_at > FRESH_SECONDS:
                self._report = self._look()
                self._looked_at = time.monotonic()
            return self._report

    def _look(self) -> dict[str, Any]:
        inbox, spool = self._try_inbox(), self._try_spool()
        if not inbox["reachable"] and not spool["usable"]:
            status = UNREADY
        elif inbox["reachable"] and inbox["safe"] and (spool["usable"] or not spool["limit_bytes"]):
            status = READY
        else:
            status = DEGRADED
        return {"status": status, "inbox": inbox, "spool": spool}

    def _try_inbox(self) -> dict[str, Any]:
        try:
            self._inbox.check()
            guarantees = self._inbox.guarantees()
        except RedisError:
            return {"reachable": False, "durability": "unknown", "eviction": "unknown", "safe": False}
        return {
            "reachable": True,
            "durability": guarantees.durability,
            "eviction": guarantees.eviction,
            "safe": guarantees.safe,
        }

    def _try_spool(self) -> dict[str, Any]:
        found: dict[str, Any] = {"usable": False, "limit_bytes": self._spool.max_bytes}
        try:
            size = self._spool.size()
            found |= {"waiting": size.waiting, "bytes": size.bytes}
            self._spool.check()
        except NotDurable:
            return found
        return found | {"usable": True}
