"""Every wire type has its documented body, and a body its expected event."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest

from coursewire.errors import SchemaViolation
from coursewire.event import Event
from coursewire.plugins import PROVIDERS, Callback, Provider, Reading, load_all
from schemas import samples

GOLDEN = Path(__file__).parents[1] / "payloads"
RECEIVED_AT = datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
NOW = datetime(2025, 3, 1, 2, 0, 0, 5, tzinfo=UTC)

PROVIDER = {name: provider() for name, provider in load_all(PROVIDERS, Provider).items()}
EVERY = [
    (name, wire_type) for name, provider in PROVIDER.items() for wire_type in sorted(provider.wire_types)
]


def read(provider: str, document: Any, *, source: str = "academy") -> Reading:
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    callback = Callback(receipt="r", source=source, body=body, received_at=RECEIVED_AT)
    (item,) = PROVIDER[provider].split(callback)
    return PROVIDER[provider].read(item, callback, ZoneInfo(PROVIDER[provider].default_timezone))


@pytest.mark.parametrize(("provider", "wire_type"), EVERY)
def test_documented_body_becomes_the_expected_event(provider: str, wire_type: str) -> None:
    """The golden file holds every part of the event in literals; only the id is fresh."""
    reading = read(provider, samples.body(provider, wire_type))
    document = orjson.loads(reading.event.to_json())
    assert len(document.pop("id")) == 36
    assert document == orjson.loads((GOLDEN / provider / f"{wire_type}.json").read_bytes())
    assert reading.unknown_fields == ()


@pytest.mark.parametrize(("provider", "wire_type"), EVERY)
def test_an_event_survives_its_own_json(provider: str, wire_type: str) -> None:
    """What is stored is what was read: nothing in it is of a type that JSON has not."""
    event = read(provider, samples.body(provider, wire_type)).event
    assert Event.from_json(event.to_json()) == event


@pytest.mark.parametrize("provider", sorted(PROVIDER))
def test_every_wire_type_has_its_files_and_every_file_its_wire_type(provider: str) -> None:
    """A new event type needs a documented body and an expected event; neither outlives its type."""
    wire_types = sorted(PROVIDER[provider].wire_types)
    assert samples.wire_types(provider) == wire_types
    assert sorted(file.stem for file in (GOLDEN / provider).iterdir()) == wire_types


def test_no_folder_without_a_provider() -> None:
    """Golden files belong to registered providers."""
    assert sorted(folder.name for folder in GOLDEN.iterdir()) == sorted(PROVIDER)


def test_samples_of_an_unknown_provider() -> None:
    """A provider of somebody else may have no samples."""
    assert samples.wire_types("nobody") == []


@pytest.mark.parametrize(("provider", "wire_type"), EVERY)
def test_fresh_bodies_are_the_same_event_for_somebody_else_now(provider: str, wire_type: str) -> None:
    """Another salt makes another event; the same salt, the same; names stay; it occurred now."""
    original = read(provider, samples.body(provider, wire_type)).event
    one = read(provider, samples.fresh(provider, wire_type, NOW, "one")).event
    again = read(provider, samples.fresh(provider, wire_type, NOW, "one")).event
    other = read(provider, samples.fresh(provider, wire_type, NOW, "other")).event
    assert one.key == again.key
    assert len({original.key, one.key, other.key}) == 3
    assert abs(one.occurred_at - NOW) < timedelta(seconds=2)
    assert one.type == original.type
    assert (one.learner and one.learner.name) == (original.learner and original.learner.name)


def test_fresh_times_keep_their_form_and_distance() -> None:
    """Toolzz's local times are São Paulo's; dd/MM/yyyy stays dd/MM/yyyy; a role is no identity."""
    fresh = samples.fresh("toolzz", "members.updated", NOW, "salt")
    assert fresh["event"]["send_at"] == "2025-02-28 23:00:00"
    school = fresh["data"]["user"]["institution"][0]["schools"][0]
    assert school["updated_at"] == "28/02/2025 22:59:38"
    assert school["role_id"] == 4
    offering = samples.fresh("digitalchalk", "offering_completed", NOW, "salt")
    assert offering["date"] == "2025-03-01T02:00:00Z"
    assert offering["registration"]["endDate"] == "2025-09-28T02:00:00Z"


def test_the_demonstration_shows_every_event_type_and_what_comes_of_it() -> None:
    """What it expects of each callback is what the schemas say of it."""
    demo = samples.demo(NOW, "salt")
    assert {(each.provider, each.wire_type) for each in demo} == set(EVERY)
    earned: dict[str, list[tuple[str, ...] | None]] = {"done": [], "skipped": [], "once": []}
    refused = []
    keys = set()
    for each in demo:
        if each.expected["state"] == "quarantined":
            with pytest.raises(SchemaViolation) as violation:
                read(each.provider, each.body)
            refused.append(violation.value.errors)
            continue
        event = read(each.provider, each.body).event
        keys.add(event.key)
        if (says := each.expected["certificates"]) is not None:
            assert event.result is not None
            assert (event.result.earned is True) == (says != "skipped")
            earned[says].append(event.certificate_subject)
    assert refused == [
        {"element.type": ["must be one of: chalkboard, test, file, assignment, sco, webarchive"]}
    ]
    assert len(keys) == len(demo) - 1
    assert len(earned["done"]) == 1
    assert len(earned["skipped"]) == 3
    assert len(earned["once"]) == 2
    assert len(set(earned["once"])) == 1
    assert earned["done"] != earned["once"][:1]
