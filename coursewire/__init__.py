"""The public names for authors of plug-ins; they import nothing else of ours."""

from coursewire.errors import NotNow, Permanent, SchemaViolation, Skip, Temporary, UnknownEvent, Unparsable
from coursewire.event import (
    Activity,
    Course,
    Event,
    EventType,
    Learner,
    Registration,
    Result,
    TriggeredBy,
    key_of,
)
from coursewire.plugins import Callback, Handler, Provider, Reading

__all__ = [
    "Activity",
    "Callback",
    "Course",
    "Event",
    "EventType",
    "Handler",
    "Learner",
    "NotNow",
    "Permanent",
    "Provider",
    "Reading",
    "Registration",
    "Result",
    "SchemaViolation",
    "Skip",
    "Temporary",
    "TriggeredBy",
    "UnknownEvent",
    "Unparsable",
    "key_of",
]
