"""What a worker process holds: its own connections, made after the fork, and its plug-ins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from celery import Celery
from sqlalchemy import Engine

from coursewire.handlers import Configured, configured
from coursewire.hints import Hints
from coursewire.inbox import Inbox, connect
from coursewire.installation import read_key
from coursewire.ledger.engine import open_ledger
from coursewire.metrics import WorkMetrics
from coursewire.plugins import Handler
from coursewire.settings import Settings, load_settings
from workers.read import Reader, load_providers

REDIS_TIMEOUT_SECONDS = 5.0
# A task looks again until this has passed, then ends: a worker that is asked to stop does so soon.
TIME_SLICE_SECONDS = 5.0


@dataclass(frozen=True)
class Context:
    """Not to be shared across a fork."""

    settings: Settings
    engine: Engine
    inbox: Inbox
    hints: Hints
    reader: Reader
    secret: bytes
    metrics: WorkMetrics

    @classmethod
    def open(cls, settings: Settings, app: Celery) -> Context:
        redis = connect(settings.redis_url, timeout_seconds=REDIS_TIMEOUT_SECONDS)
        return cls(
            settings=settings,
            engine=open_ledger(settings),
            inbox=Inbox(redis, settings.namespace),
            hints=Hints(settings, redis, app),
            reader=Reader(
                settings.sources,
                load_providers(settings),
                refresh=lambda: load_settings(settings.data_dir),
            ),
            secret=read_key(settings),
            metrics=WorkMetrics(settings.sources),
        )

    @cached_property
    def handlers(self) -> dict[str, Configured]:
        """Loaded when first wanted: ingest never imports a handler."""
        return configured(self.settings)


def task_limit_seconds(settings: Settings, handler: type[Handler] | None) -> float:
    """The hard limit of a task: the last batch of a slice has its whole time. None means ingest."""
    limit = settings.ingest_time_limit_seconds if handler is None else handler.time_limit_seconds
    return limit + TIME_SLICE_SECONDS


def lease_seconds(settings: Settings, handler: type[Handler] | None) -> float:
    """How long a claim is respected: longer than any task can live."""
    return task_limit_seconds(settings, handler) + settings.lease_margin_seconds
