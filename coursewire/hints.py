"""Hints: contentless Celery messages that say "look", the names of queues and tasks, and the wake token.

A hint may be lost, repeated or made by hand: the truth is in the inbox and in the ledger, and the sweep hints
again. The token keeps hints few: whoever makes work sets it, and only who set it sends.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from celery import Celery
from redis import Redis

from coursewire.settings import Settings

INGEST = "ingest"
# Long enough that a busy stage gets few hints, short enough that a lost one is soon repeated.
TOKEN_MILLISECONDS = 2000
# A broker that is away is not waited for: the sweep hints again, or does the work itself.
_ONE_TRY = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}


def handler_queue(handler: str) -> str:
    return f"handler.{handler}"


def handler_of(queue: str) -> str:
    return queue.removeprefix("handler.")


def broker_queue(settings: Settings, queue: str) -> str:
    """The name of a queue in the broker; on the command line and in tables it goes without the prefix."""
    return f"{settings.namespace}.{queue}"


def task_name(queue: str) -> str:
    """One task a queue, so that each handler has its own time limit and a hint needs no argument."""
    return f"coursewire.{queue}"


def make_celery(settings: Settings) -> Celery:
    """The Celery application, for senders and workers alike.

    Correctness never rests on late acknowledgement or on the visibility timeout: the settings below only keep
    hints quick and workers alive.
    """
    app = Celery("coursewire", broker=settings.broker_url, set_as_current=False)
    redis_broker = settings.broker_url.startswith(("redis", "rediss"))
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_connection_timeout=2,
        # Of RabbitMQ: a connection that went silent is noticed within two of these.
        broker_heartbeat=15,
        task_publish_retry=False,
        enable_utc=True,
        broker_transport_options={
            **_ONE_TRY,
            "global_keyprefix": f"{settings.namespace}:",
            "visibility_timeout": 3600,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "unacked_restore_limit": 500,
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 10,
        }
        if redis_broker
        else {**_ONE_TRY, "confirm_publish": True, "read_timeout": 5, "write_timeout": 5},
    )
    return app


class Hints:
    """Sends hints. Waits for the broker at most for its time-outs, so never on the path of an answer."""

    def __init__(self, settings: Settings, redis: Redis, app: Celery) -> None:
        self._settings = settings
        self._redis = redis
        self._app = app

    def send(self, queues: Iterable[str]) -> list[str]:
        """Hint each queue whose token is free. Returns those that could not be hinted."""
        failed = []
        for queue in queues:
            try:
                if self._redis.set(self._token(queue), b"1", nx=True, px=TOKEN_MILLISECONDS):
                    self._publish(queue)
            except Exception:  # noqa: BLE001 - redis, kombu and amqp errors have no common root
                failed.append(queue)
        return failed

    def awake(self, queue: str) -> None:
        """Called by a task before it looks: whoever makes work from here on hints again."""
        self._redis.delete(self._token(queue))

    def waiting(self, queue: str) -> int:
        """How many hints lie in the broker for this queue, which is declared as Celery would."""
        with self._app.connection_for_write() as connection, connection.channel() as channel:
            declared = cast(Any, channel).queue_declare(
                queue=broker_queue(self._settings, queue), durable=True, auto_delete=False
            )
            return cast(int, declared.message_count)

    def _publish(self, queue: str) -> None:
        try:
            self._app.send_task(
                task_name(queue), queue=broker_queue(self._settings, queue), ignore_result=True, retry=False
            )
        except Exception:
            self._redis.delete(self._token(queue))
            raise

    def _token(self, queue: str) -> str:
        return f"{self._settings.namespace}:wake:{queue}"
