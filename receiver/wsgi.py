"""What the server loads in each of its worker processes."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from coursewire import logs
from coursewire.hints import Hints, make_celery
from coursewire.inbox import Inbox, connect
from coursewire.settings import Settings, load_settings
from coursewire.spool import Spool
from receiver.app import create_app
from receiver.configuration import read_again
from receiver.intake import Intake
from receiver.metrics import Metrics

# Longer than any answer takes: what is in flight still uses the old connections.
LINGER_SECONDS = 5.0


class Application:
    """The Flask application with its connections and threads, which can be made anew while it serves.

    Made only after the last fork of its process.
    """

    def __init__(self, settings: Settings) -> None:
        self._metrics = Metrics()
        self._start(settings)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self._app(environ, start_response)

    def read_again(self) -> None:
        """Take over the configuration as it is now, if it is right."""
        settings, old = read_again(self._settings), self._intake
        if settings is not None:
            self._start(settings)
            closing = threading.Timer(LINGER_SECONDS, old.close)
            closing.daemon = True
            closing.start()

    def _start(self, settings: Settings) -> None:
        logs.configure(settings.log_level)
        intake = make_intake(settings, self._metrics)
        app = create_app(settings, intake, self._metrics)
        intake.start()
        self._settings, self._intake, self._app = settings, intake, app


def make_intake(settings: Settings, metrics: Metrics) -> Intake:
    redis = connect(settings.redis_url, timeout_seconds=settings.inbox_timeout_seconds)
    return Intake(
        Inbox(redis, settings.namespace),
        Spool(settings.spool_path, settings.spool_max_bytes),
        Hints(settings, redis, make_celery(settings)),
        inbox_timeout_seconds=settings.inbox_timeout_seconds,
        on_look=metrics.look_at,
    )


def application() -> Application:
    """For any WSGI server that takes a factory: `receiver.wsgi:application()`."""
    return Application(load_settings())
