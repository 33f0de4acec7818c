"""Hinting queues from the command line. Nothing depends on it: the sweep finds the work as well."""

from __future__ import annotations

from collections.abc import Sequence

from coursewire.settings import Settings

TIMEOUT_SECONDS = 1.0


def wake(settings: Settings, queues: Sequence[str]) -> None:
    """Hint each queue, as far as servers answer: the stack may be stopped."""
    from coursewire.hints import Hints, make_celery
    from coursewire.inbox import connect

    redis = connect(settings.redis_url, timeout_seconds=TIMEOUT_SECONDS)
    app = make_celery(settings)
    try:
        Hints(settings, redis, app).send(queues)
    finally:
        app.close()
        redis.close()
