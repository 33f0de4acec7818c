"""Jinja2 texts over one event: tried when the configuration is read, so that a mistake is found at boot.

The only variable is `event`. What an event may lack, and whatever `event.data` has not, renders as nothing.
Texts are plain: nothing is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

from jinja2 import ChainableUndefined, StrictUndefined, Template, TemplateSyntaxError, Undefined, meta
from jinja2.sandbox import SandboxedEnvironment
from marshmallow import ValidationError

from coursewire.errors import Permanent
from coursewire.event import Activity, Course, Event, EventType, Learner, Registration, Result, TriggeredBy

_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def render(text: str, event: Event) -> str:
    """Raises `Permanent`: the same text fails for the same event every time."""
    try:
        return _compiled(text).render(event=event)
    except Exception as exc:
        raise Permanent(f"the template fails: {type(exc).__name__}") from exc


def one_line(text: str) -> str:
    """For a header: a line break that came with a learner's name must not begin another header."""
    return " ".join(_BREAKS.sub(" ", text).split())


def check_template(text: str) -> None:
    """Raises `ValidationError` where the text cannot be read, names what no event has, or fails."""
    try:
        unknown = meta.find_undeclared_variables(_trial.parse(text)) - {"event", *_trial.globals}
        template = _trial.from_string(text)
    except TemplateSyntaxError as exc:
        raise ValidationError(f"line {exc.lineno}: {exc.message}") from exc
    if unknown:
        raise ValidationError(f"there is only `event`, not {', '.join(sorted(unknown))}")
    for event in _full():
        try:
            template.render(event=event)
        except Exception as exc:
            raise ValidationError(str(exc)) from exc
    for event in _bare():
        try:
            _compiled(text).render(event=event)
        except Exception as exc:
            raise ValidationError(f"fails where an event lacks what it uses, without an `if`: {exc}") from exc


def _environment(undefined: type[Undefined]) -> SandboxedEnvironment:
    return SandboxedEnvironment(
        undefined=undefined,
        finalize=lambda value: "" if value is None else value,
        autoescape=False,
        keep_trailing_newline=True,
    )


_trial = _environment(StrictUndefined)
_delivery = _environment(ChainableUndefined)


@cache
def _compiled(text: str) -> Template:
    return _delivery.from_string(text)


class _Anything(dict[str, Any]):
    """The provider-specific rest is not known at boot: it may have any name."""

    def __missing__(self, name: str) -> ChainableUndefined:
        return ChainableUndefined(name=name)


_SAMPLE = Event(
    id="0190b6e4-0000-7000-8000-000000000000",
    source="sample",
    provider="sample",
    type=EventType.COURSE_COMPLETED,
    wire_type="sample",
    key="sample",
    occurred_at=datetime(2024, 6, 6, 16, 9, tzinfo=UTC),
    received_at=datetime(2024, 6, 6, 16, 9, 1, tzinfo=UTC),
    learner=Learner(id="1", email="ana@example.org", name="Ana", username="ana", locale="pt"),
    course=Course(id="2", title="Algebra"),
    activity=Activity(id="3", type="test", title="Module 1"),
    registration=Registration(
        id="4", begin=datetime(2024, 1, 1, tzinfo=UTC), end=datetime(2024, 6, 6, tzinfo=UTC)
    ),
    result=Result(score=95.0, passed=True, progress=100.0, completed=True, earned=True),
    triggered_by=TriggeredBy.LEARNER,
    data=_Anything(),
)


def _full() -> Iterator[Event]:
    """Events of every type, passed and failed, so that most branches of a template are taken."""
    for kind in EventType:
        for passed in (True, False):
            result = Result(score=95.0, passed=passed, progress=100.0, completed=True, earned=passed)
            yield replace(_SAMPLE, type=kind, result=result)


def _bare() -> Iterator[Event]:
    """Events that lack every part, and events whose parts lack every field."""
    lacking = replace(
        _SAMPLE, learner=None, course=None, activity=None, registration=None, result=None, data={}
    )
    for kind in EventType:
        yield replace(lacking, type=kind)
        yield replace(
            lacking,
            type=kind,
            learner=Learner(id="1"),
            course=Course(id="2"),
            activity=Activity(),
            registration=Registration(id="4"),
            result=Result(),
        )
