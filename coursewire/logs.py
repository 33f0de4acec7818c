"""Logs of every process: one JSON object a line on stderr, our own events and other libraries' alike.

An exception is written as its type and the places it went through, never with its message: messages of
foreign exceptions quote values (SQLAlchemy its parameters, parsers their input), and values are personal.
"""

from __future__ import annotations

import logging
import sys
import traceback
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
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING))


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
