"""The one vocabulary of error codes, and the exceptions that carry them.

A code is the same word in an HTTP problem, a log line, a metric label, the ledger and docs/errors.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum


class Code(StrEnum):
    """Why something was refused, set aside, skipped or given up."""

    # Refused by the receiver: nothing was accepted.
    UNKNOWN_SOURCE = "unknown_source"
    NOT_AUTHENTICATED = "not_authenticated"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    TOO_LARGE = "too_large"
    EMPTY_BODY = "empty_body"
    MALFORMED_REQUEST = "malformed_request"
    NOT_DURABLE = "not_durable"
    INTERNAL_ERROR = "internal_error"

    # Accepted, but no event came of it.
    UNPARSABLE = "unparsable"
    SCHEMA_VIOLATION = "schema_violation"
    CONFLICT = "conflict"
    POISON = "poison"
    UNKNOWN_EVENT = "unknown_event"

    # A handler's verdicts.
    SKIPPED = "skipped"
    NOT_EARNED = "not_earned"
    NO_SUBJECT = "no_subject"
    ALREADY_AWARDED = "already_awarded"
    NOT_CONFIGURED = "not_configured"
    NO_COURSE = "no_course"
    NO_LEARNER = "no_learner"
    NO_ADDRESS = "no_address"
    NOT_NOW = "not_now"
    TEMPORARY = "temporary"
    PERMANENT = "permanent"
    CRASHED = "crashed"
    UNKNOWN_OUTCOME = "unknown_outcome"
    RETIRED = "retired"
    FOLLOW_UPS_TOO_DEEP = "follow_ups_too_deep"

    # Said to an operator.
    INVALID_CONFIGURATION = "invalid_configuration"
    INVALID_PLUGIN = "invalid_plugin"
    LEDGER_OUTDATED = "ledger_outdated"
    WRONG_INSTALLATION_KEY = "wrong_installation_key"
    SERVER_UNREACHABLE = "server_unreachable"
    ALREADY_RUNNING = "already_running"
    BACKUP_FAILED = "backup_failed"
    NOT_FOUND = "not_found"


class CoursewireError(Exception):
    """The root of every error that Coursewire raises; `code` is from the one vocabulary."""

    code: Code = Code.INTERNAL_ERROR

    def __init__(self, detail: str = "", *, code: Code | None = None) -> None:
        super().__init__(detail or (self.__doc__ or "").partition("\n")[0])
        if code is not None:
            self.code = code

    @property
    def detail(self) -> str:
        return str(self.args[0])


class Refused(CoursewireError):
    """The receiver does not accept this request; `status` is the HTTP status it answers with."""

    def __init__(
        self, code: Code, status: int, detail: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail, code=code)
        self.status = status
        self.headers = dict(headers or {})


class NotAuthenticated(CoursewireError):
    """The request does not carry the source's secret."""

    code = Code.NOT_AUTHENTICATED


class NotDurable(CoursewireError):
    """Neither the inbox nor the spool takes callbacks now."""

    code = Code.NOT_DURABLE


class Unparsable(CoursewireError):
    """The body is not of a form that this provider sends."""

    code = Code.UNPARSABLE


class SchemaViolation(CoursewireError):
    """A documented field breaks a documented rule.

    `errors` maps the path of each field ("user.id", "institution.0.id") to the rules it breaks.
    The messages name rules, never values: they are shown and logged.
    """

    code = Code.SCHEMA_VIOLATION

    def __init__(self, errors: Mapping[str, list[str]], *, wire_type: str | None = None) -> None:
        super().__init__(f"{len(errors)} field(s) break a rule: {', '.join(sorted(errors))}")
        self.errors = dict(errors)
        self.wire_type = wire_type


class UnknownEvent(CoursewireError):
    """The provider has no schema for this wire type."""

    code = Code.UNKNOWN_EVENT

    def __init__(self, wire_type: str) -> None:
        super().__init__(f"no schema for {wire_type!r}")
        self.wire_type = wire_type


class InvalidConfiguration(CoursewireError):
    """The configuration has a wrong, unknown or missing key; `key` is its dotted name."""

    code = Code.INVALID_CONFIGURATION

    def __init__(self, key: str, detail: str) -> None:
        super().__init__(f"{key}: {detail}")
        self.key = key


class InvalidPlugin(CoursewireError):
    """A plug-in cannot be loaded; the message names the entry point, its value and its distribution."""

    code = Code.INVALID_PLUGIN


class LedgerOutdated(CoursewireError):
    """The ledger is older than this program: run `coursewire migrate`."""

    code = Code.LEDGER_OUTDATED


class ServerUnreachable(CoursewireError):
    """A server that is needed does not answer."""

    code = Code.SERVER_UNREACHABLE


class AlreadyRunning(CoursewireError):
    """Another process holds this data directory."""

    code = Code.ALREADY_RUNNING


class BackupFailed(CoursewireError):
    """A backup could not be taken, or was not restored."""

    code = Code.BACKUP_FAILED


class NotFound(CoursewireError):
    """There is nothing of that name or id."""

    code = Code.NOT_FOUND


class Verdict(CoursewireError):
    """The root of what a handler raises to say how an attempt ended."""


class Skip(Verdict):
    """This handler does not want this event: the delivery ends as `skipped`. Operators see `reason`."""

    code = Code.SKIPPED

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotNow(Verdict):
    """Not before `until` (an aware datetime). No attempt is burnt."""

    code = Code.NOT_NOW

    def __init__(self, until: datetime, reason: str = "") -> None:
        if until.tzinfo is None:
            raise ValueError("until must be aware")
        super().__init__(reason or "not before the given time")
        self.until = until


class Temporary(Verdict):
    """It did not work, and may work later. `retry_after` (seconds) is what the other side asked for."""

    code = Code.TEMPORARY

    def __init__(self, detail: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Permanent(Verdict):
    """It will never work for this event. The delivery ends as `dead`."""

    code = Code.PERMANENT


def sanitized(error: BaseException) -> str:
    """A line about `error` that is safe to keep and show: our own words, or only the type of foreign errors.

    The message of a foreign exception may quote values of the callback (SQLAlchemy prints parameters,
    JSON parsers the input), so it is never stored.
    """
    if isinstance(error, CoursewireError):
        return error.detail
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" at {trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__}{where}"
