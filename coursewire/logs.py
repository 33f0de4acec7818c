"""Logs of every process: one JSON object a line on stderr, our own events and other libraries' alike.

An exception is written as its type and the places it went through, never with its message: messages of
foreign exceptions quote values (SQLAlchemy its parameters, parsers their input), and values are personal.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import warnings
from types import TracebackType
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from coursewire.errors import sanitized

FRAMES = 20


def configure(level: str = "info", *, stream: TextIO | None = None) -> None:
    """Called once at the start of each process. `level` is one of the setting `log_level`.

    Of other libraries only warnings and worse are written, whatever the level.
    """
    stream = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        exceptions_without_values,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.addFilter(_without_messages_of_exceptions)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # For loggers that do not propagate and have no handler, like multiprocessing's.
    logging.lastResort = handler
    root.setLevel(max(number, logging.WARNING))
    # What Python itself would print as plain text, with the messages of exceptions and arguments of lines.
    logging.raiseExceptions = False
    warnings.showwarning = _warned
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def _without_messages_of_exceptions(record: logging.LogRecord) -> bool:
    """Other libraries put exceptions into their words as well."""
    if isinstance(record.args, tuple):
        record.args = tuple(sanitized(arg) if isinstance(arg, BaseException) else arg for arg in record.args)
    return True


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = " ".join(str(message).split())
    logging.getLogger("py.warnings").warning("%s: %s (%s:%s)", category.__name__, text, filename, lineno)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    structlog.get_logger().critical("the process failed", exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if not issubclass(args.exc_type, SystemExit):
        name = args.thread.name if args.thread else None
        structlog.get_logger().error("a thread failed", thread=name, exc_info=args.exc_value)


def exceptions_without_values(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Replace `exc_info` by what is safe to keep: `error` and `frames`, innermost last."""
    given = event.pop("exc_info", None)
    if not given:
        return event
    error, trace = _error(given)
    if error is not None:
        event.setdefault("error", sanitized(error))
        event["frames"] = [
            f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)[-FRAMES:]
        ]
    return event


def _error(given: object) -> tuple[BaseException | None, TracebackType | None]:
    if isinstance(given, BaseException):
        return given, given.__traceback__
    if isinstance(given, tuple):
        return given[1], given[2]
    return sys.exc_info()[1], sys.exc_info()[2]
