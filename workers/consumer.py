"""The side of a worker that takes hints from the broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import structlog
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer

from coursewire.event import new_id

log = structlog.get_logger()
_celery_log = get_logger(__name__)

NOTHING = b"[[], {}, {}]"
"""Celery's message body for a task without arguments."""


class HintConsumer(Consumer):
    """Takes of each message the task's name, and nothing else: whatever it carries, it is a hint or refused.

    Celery's own ends the worker for some bodies that it cannot unpack and leaves the message for the next
    worker, which ends as well; for others it fails in the pool and keeps the worker's only slot.
    """

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        take = cast("Callable[[Any], None]", super().create_task_handler(*args, **kwargs))
        consumer = cast(Any, self)

        def take_hint(message: Any) -> None:
            name = message.headers.get("task") if isinstance(message.headers, dict) else None
            if not isinstance(name, str) or name not in consumer.app.tasks:
                log.warning("message refused: it names no task of this worker")
                message.reject_log_error(_celery_log, consumer.connection_errors)
                return
            message.headers = {"lang": "py", "task": name, "id": new_id()}
            message.properties = {"delivery_tag": message.delivery_tag}
            message.body, message.content_type, message.content_encoding = (
                NOTHING,
                "application/json",
                "utf-8",
            )
            take(message)

        return take_hint
