"""The Celery worker: one task a queue, and nothing in a message."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

import structlog
from celery import Celery
from celery.signals import setup_logging, worker_ready
from sqlalchemy.exc import DBAPIError

from coursewire.errors import InvalidConfiguration
from coursewire.handlers import configured
from coursewire.hints import INGEST, broker_queue, handler_of, handler_queue, make_celery, task_name
from coursewire.ledger.migrate import check
from coursewire.ledger.processes import WORKER
from coursewire.settings import Settings
from workers.context import Context, task_limit_seconds
from workers.deliver import Deliverer
from workers.ingest import ingest
from workers.presence import present

log = structlog.get_logger()

EVERY_HANDLER = "handlers"


class Process:
    """What a pool's child process makes once, after the fork, and keeps."""

    def __init__(self, settings: Settings, app: Celery) -> None:
        self._settings = settings
        self._app = app
        self._pid = 0
        self._ctx: Context | None = None
        self._deliverers: dict[str, Deliverer] = {}

    def work(self, queue: str) -> None:
        ctx = self._context()
        if queue == INGEST:
            ingest(ctx)
            return
        name = handler_of(queue)
        if name not in self._deliverers:
            self._deliverers[name] = Deliverer(ctx, ctx.handlers[name].make())
        self._deliverers[name].deliver()

    def _context(self) -> Context:
        if self._ctx is None or self._pid != os.getpid():
            self._ctx = Context.open(self._settings, self._app)
            self._deliverers = {}
            self._pid = os.getpid()
        return self._ctx


def known_queues(settings: Settings) -> list[str]:
    return [INGEST, *(handler_queue(name) for name in sorted(settings.handlers))]


def expand_queues(settings: Settings, given: Sequence[str]) -> list[str]:
    """The queues meant by `ingest`, `handler.<name>` or `handlers`. Raises `InvalidConfiguration`."""
    known = known_queues(settings)
    queues: list[str] = []
    for name in given:
        if name == EVERY_HANDLER:
            queues += known[1:]
        elif name in known:
            queues.append(name)
        else:
            raise InvalidConfiguration("queues", f"there is no {name!r}; known: handlers, {', '.join(known)}")
    return list(dict.fromkeys(queues))


def make_app(settings: Settings, queues: Sequence[str]) -> Celery:
    """A Celery application with the tasks of these queues."""
    app = make_celery(settings)
    process = Process(settings, app)
    handlers = configured(settings) if any(queue != INGEST for queue in queues) else {}
    for queue in queues:
        plugin = None if queue == INGEST else handlers[handler_of(queue)].plugin
        _add_task(app, process, queue, task_limit_seconds(settings, plugin))
    return app


def _add_task(app: Celery, process: Process, queue: str, limit_seconds: float) -> None:
    def work(*_: Any, **__: Any) -> None:
        # Arguments are nobody's: a hint made by hand must not fail for them.
        try:
            process.work(queue)
        except DBAPIError as exc:
            log.warning("ledger failed", queue=queue, error=type(exc.orig).__name__)
        except Exception as exc:  # noqa: BLE001 - the sweep hints again; a traceback could hold personal data
            log.error("task failed", queue=queue, error=type(exc).__name__)

    # Celery's types know whole seconds only; its pool takes fractions.
    cast(Any, app).task(name=task_name(queue), time_limit=limit_seconds, ignore_result=True)(work)


def main(
    settings: Settings,
    queues: Sequence[str],
    concurrency: int = 1,
    *,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Run a worker in the foreground until SIGTERM (finishes what it has in hand)."""
    names = expand_queues(settings, queues)
    check(settings)
    app = make_app(settings, names)
    app.conf.worker_consumer = "workers.consumer:HintConsumer"
    setup_logging.connect(_keep_our_logging, weak=False)
    if on_ready is not None:
        ready = on_ready
        worker_ready.connect(lambda **_: ready(), weak=False)
    worker = app.Worker(
        queues=[broker_queue(settings, name) for name in names],
        concurrency=concurrency,
        pool="prefork",
        optimization="fair",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    # Celery says there, in plain text, that it was asked to stop.
    sys.__stdout__ = None  # type: ignore[misc]
    with present(settings, WORKER, names):
        worker.start()


def _keep_our_logging(**_: Any) -> None:
    """A receiver of this signal keeps Celery from configuring logging itself."""
