"""What the receiver answers. The view of a callback is a list of decisions, and does nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from flask import Response, g, request

from coursewire.errors import Code, NotDurable, Refused
from coursewire.event import new_id
from coursewire.inbox import encode
from coursewire.plugins import Callback
from coursewire.settings import Settings, Source
from coursewire.signatures import verify
from receiver import body
from receiver.address import remote_address
from receiver.intake import Intake
from receiver.metrics import Metrics
from receiver.problems import as_refused, problem
from receiver.readiness import UNREADY, Readiness

# A header as long as a request may be is no content type.
CONTENT_TYPE_LENGTH = 255


@dataclass(frozen=True, slots=True)
class Views:
    settings: Settings
    intake: Intake
    readiness: Readiness
    kept_headers: Mapping[str, frozenset[str]]
    """By source: the headers that its provider asks for, in lower case."""
    metrics: Metrics

    def callback(self, source: str, token: str | None = None) -> Response:
        """POST and PUT /hooks/<source>[/<token>]: 200 once the callback is durable."""
        with self.metrics.answer_seconds.time():
            found = self._source(source)
            limit = self.settings.max_body_bytes
            announced = request.content_length
            if announced is not None and announced > limit:
                raise self._too_large()
            # Before the body is read: a stranger cannot make us read one.
            headers = dict(request.headers)
            verified_by = verify(found, token=token, headers=headers)
            raw = self._read(limit)
            g.size = len(raw)
            if len(raw) > limit:
                raise self._too_large()
            if announced is not None and len(raw) < announced:
                raise Refused(Code.MALFORMED_REQUEST, 400, "the body is shorter than its Content-Length")
            content = body.decoded(raw, headers.get("Content-Encoding", ""), limit)
            if len(content) > limit:
                raise self._too_large()
            if not content:
                raise Refused(Code.EMPTY_BODY, 400, "the body is empty")
            callback = Callback(
                receipt=new_id(),
                source=found.name,
                body=content,
                received_at=datetime.now(UTC),
                method=request.method,
                content_type=headers.get("Content-Type", "")[:CONTENT_TYPE_LENGTH],
                headers=self._kept(found, headers),
                remote_address=self.remote_address(),
                verified_by=verified_by,
            )
            g.receipt = callback.receipt
            self.intake.accept(encode(callback, found.provider))
            # From here the callback is safe.
            self.metrics.callbacks.labels(found.name, "accepted").inc()
            return answer({"receipt": callback.receipt})

    def known(self, source: str, token: str | None = None) -> Response:
        """GET and HEAD there: an LMS asks whether the URL exists before it is saved.

        Says nothing about the token, so that it cannot be tried out without a trace.
        """
        return answer({"source": self._source(source).name})

    def livez(self) -> Response:
        return answer({"status": "alive"})

    def readyz(self) -> Response:
        report = self.readiness.report()
        if report["status"] == UNREADY:
            refused = as_refused(NotDurable())
            return problem(refused, inbox=report["inbox"], spool=report["spool"])
        return answer(report)

    def metrics_text(self) -> Response:
        return Response(self.metrics.text(), content_type="text/plain; version=0.0.4; charset=utf-8")

    def remote_address(self) -> str | None:
        forwarded = request.headers.get("X-Forwarded-For", "")
        return remote_address(request.environ.get("REMOTE_ADDR"), forwarded, self.settings.trusted_proxies)

    def _source(self, name: str) -> Source:
        found = self.settings.sources.get(name)
        if found is None:
            raise Refused(Code.UNKNOWN_SOURCE, 404, "there is no such source")
        return found

    def _too_large(self) -> Refused:
        limit = self.settings.max_body_bytes
        return Refused(Code.TOO_LARGE, 413, f"a body may have {limit} bytes, also after decompression")

    def _read(self, limit: int) -> bytes:
        try:
            return body.read(request.environ["wsgi.input"], limit)
        except OSError as exc:
            raise Refused(Code.MALFORMED_REQUEST, 400, "the body did not arrive") from exc

    def _kept(self, source: Source, headers: Mapping[str, str]) -> dict[str, str]:
        wanted = self.kept_headers[source.name]
        return {name.lower(): value for name, value in headers.items() if name.lower() in wanted}


def answer(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), content_type="application/json")
