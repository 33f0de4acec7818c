"""The Flask application, put together from its parts."""

from __future__ import annotations

from typing import Any

import structlog
from flask import Flask, Response, g, request

from coursewire.errors import Code, CoursewireError, Refused
from coursewire.settings import Settings
from receiver.configuration import kept_headers
from receiver.intake import Intake
from receiver.metrics import Metrics
from receiver.problems import as_refused, problem
from receiver.readiness import Readiness
from receiver.views import Views

HOOKS = ("/hooks/<source>", "/hooks/<source>/<token>")
UNKNOWN = "unknown"

log = structlog.get_logger()


class Receiver(Flask):
    """Flask, but its last resort for an exception logs no URL: there may be a token in it."""

    def log_exception(self, exc_info: Any) -> None:
        log.error("the receiver failed", code=Code.INTERNAL_ERROR, exc_info=exc_info)


def create_app(settings: Settings, intake: Intake, metrics: Metrics | None = None) -> Receiver:
    """The application over an intake. Raises `InvalidConfiguration` or `InvalidPlugin`."""
    app = Receiver("receiver", static_folder=None)
    # A sender must never be sent elsewhere: few follow a redirect with their body.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    metrics = metrics or Metrics()
    readiness = Readiness(intake.inbox, intake.spool)
    views = Views(settings, intake, readiness, kept_headers(settings), metrics)
    for rule in HOOKS:
        app.add_url_rule(rule, "callback", views.callback, methods=["POST", "PUT"])
        app.add_url_rule(rule, "known", views.known, methods=["GET"])
    app.add_url_rule("/livez", "livez", views.livez, methods=["GET"])
    app.add_url_rule("/readyz", "readyz", views.readyz, methods=["GET"])
    app.add_url_rule("/metrics", "metrics", views.metrics_text, methods=["GET"])

    @app.before_request
    def exact_path() -> None:
        # Flask takes //hooks/x for /hooks/x; what stands in front of us may not.
        if request.environ["PATH_INFO"].startswith("//"):
            raise Refused(Code.NOT_FOUND, 404, "there is nothing here")

    @app.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        source = settings.sources.get((request.view_args or {}).get("source", ""))
        # A token in the wrong place of a path must not be logged as a source's name.
        name = source.name if source else UNKNOWN
        challenge = 'Basic realm="coursewire"' if source and source.username else "Coursewire"
        refused = as_refused(error, challenge=challenge)
        metrics.callbacks.labels(name, refused.code).inc()
        log.warning(
            "refused",
            source=name,
            code=refused.code,
            status=refused.status,
            remote_address=views.remote_address(),
            size=g.get("size", request.content_length),
            reason=str(error) if isinstance(error, CoursewireError) else refused.detail,
            **({"receipt": g.receipt} if "receipt" in g else {}),
        )
        return problem(refused)

    return app
