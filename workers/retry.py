"""What an attempt's outcome means for its delivery. Pure: no clock, no database, no dice of its own."""

from __future__ import annotations

from datetime import datetime, timedelta

from coursewire.errors import Code, NotNow, Permanent, Temporary, sanitized
from coursewire.ledger.deliveries import Decision
from coursewire.ledger.tables import State
from coursewire.plugins import Handler

RETRY_AFTER_CAP_SECONDS = 6 * 3600.0


def judge(error: BaseException, attempts: int, limits: type[Handler], now: datetime, luck: float) -> Decision:
    """The decision on an attempt that raised `error`, after `attempts` failed ones. `luck` is in [0, 1)."""
    if isinstance(error, NotNow):
        return Decision(State.RETRYING, Code.NOT_NOW, sanitized(error), "not_now", due_at=error.until)
    failed = attempts + 1
    if isinstance(error, Permanent):
        return Decision(State.DEAD, error.code, sanitized(error), attempts=failed)
    if failed >= limits.max_attempts:
        return Decision(State.DEAD, Code.TEMPORARY, sanitized(error), attempts=failed)
    asked = error.retry_after if isinstance(error, Temporary) else None
    due_at = now + timedelta(seconds=pause_seconds(failed, limits.backoff_seconds, luck, asked))
    return Decision(State.RETRYING, Code.TEMPORARY, sanitized(error), attempts=failed, due_at=due_at)


def judge_crash(crashes: int, limits: type[Handler], now: datetime, luck: float) -> Decision:
    """The decision on a claim that ended without a verdict; `crashes` includes it.

    What a `send` handler did before it died is unknown: it is repeated under the same key, unless the
    handler forbids that.
    """
    sends = limits.kind == "send"
    outcome = "unknown" if sends else "crashed"
    if sends and not limits.may_repeat:
        detail = "the worker died while at it, and it may not be repeated"
        return Decision(State.DEAD, Code.UNKNOWN_OUTCOME, detail, outcome)
    if crashes >= limits.max_crashes:
        return Decision(State.DEAD, Code.CRASHED, f"{crashes} claims ended without a verdict", outcome)
    pause = pause_seconds(crashes, limits.backoff_seconds, luck, None) if crashes > 1 else 0.0
    due_at = now + timedelta(seconds=pause)
    return Decision(State.RETRYING, Code.CRASHED, "the worker died while at it", outcome, due_at=due_at)


def pause_seconds(
    failures: int, backoff_seconds: tuple[float, float], luck: float, asked: float | None
) -> float:
    """Exponential with full jitter, at least what the other side asked for (which is capped)."""
    base, cap = backoff_seconds
    pause = luck * min(cap, base * 2.0 ** min(failures - 1, 32))
    return pause if asked is None else max(pause, min(max(asked, 0.0), RETRY_AFTER_CAP_SECONDS))
