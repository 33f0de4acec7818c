from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas import samples

CONFIG = """
[sources.campus]
provider = "toolzz"
token = "t"
timezone = "Asia/Tokyo"
[handlers.audit]
[handlers.progress]
[handlers.certificates]
"""


@pytest.fixture(autouse=True)
def config(tmp_path: Path) -> None:
    (tmp_path / "coursewire.toml").write_text(CONFIG)


def body(provider: str, wire_type: str) -> bytes:
    return orjson.dumps(samples.body(provider, wire_type))


def test_a_good_body(command: Callable[..., Any], tmp_path: Path) -> None:
    """Its event, what makes its key, its certificate subject, and who wants it; no server is needed."""
    path = tmp_path / "body.json"
    path.write_bytes(body("digitalchalk", "offering_completed"))
    checked = command("check", "digitalchalk", str(path), "--json")
    assert checked.exit_code == 0
    (item,) = orjson.loads(checked.stdout)
    event = item.pop("event")
    assert item == {
        "item": 0,
        "state": "event",
        "wire_type": "offering_completed",
        "reason": None,
        "errors": {},
        "key": [
            "offering_completed",
            "8920ae04b9d6461ea2c7de6f6240ec4f",
            "0e110b8a72294161a589ade444bd978f",
            "2014-04-18T00:39:57+00:00",
            58,
            False,
        ],
        "unknown_fields": [],
        "wanted_by": ["audit", "certificates", "progress"],
    }
    assert event["type"] == "course.completed"
    assert event["certificate_subject"] == [
        "registration", "digitalchalk", "0e110b8a72294161a589ade444bd978f",
    ]  # fmt: skip
    printed = command("check", "digitalchalk", str(path))
    assert "wanted by    audit, certificates, progress" in printed.stdout
    assert sorted(each.name for each in tmp_path.iterdir()) == ["body.json", "coursewire.toml"]


def test_a_body_that_breaks_rules(command: Callable[..., Any]) -> None:
    """Exit code 1; the rules by the field's path, never its value."""
    spoilt = samples.body("digitalchalk", "element_completed")
    spoilt["element"]["type"] = "podcast"
    checked = command(
        "check", "digitalchalk", "-", "--json", stdin=orjson.dumps([spoilt, spoilt | {"date": 1}])
    )
    assert checked.exit_code == 1
    first, second = orjson.loads(checked.stdout)
    assert (first["state"], first["reason"], first["wire_type"], first["event"]) == (
        "quarantined",
        "schema_violation",
        "element_completed",
        None,
    )
    assert list(first["errors"]) == ["element.type"]
    assert sorted(second["errors"]) == ["date", "element.type"]
    printed = command("check", "digitalchalk", "-", stdin=orjson.dumps(spoilt))
    assert printed.exit_code == 1
    assert "Item 0 would be quarantined: schema_violation" in printed.stdout
    assert "podcast" not in printed.stdout


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"{", "would be quarantined: unparsable"),
        (b"", "would be quarantined: unparsable"),
        (b'{"event": "coffee_spilled"}', "would be ignored: no schema knows coffee_spilled"),
    ],
)
def test_a_body_that_would_come_to_nothing(command: Callable[..., Any], sent: bytes, said: str) -> None:
    """Exit code 1."""
    checked = command("check", "digitalchalk", "-", stdin=sent)
    assert checked.exit_code == 1
    assert said in checked.stdout


def test_a_source_lends_its_time_zone(command: Callable[..., Any]) -> None:
    """Times without a zone are read as that source would."""
    sent = body("toolzz", "activities.course.completed")
    (plain,) = orjson.loads(command("check", "toolzz", "-", "--json", stdin=sent).stdout)
    (campus,) = orjson.loads(
        command("check", "toolzz", "-", "--source", "campus", "--json", stdin=sent).stdout
    )
    assert plain["event"]["occurred_at"] == "2023-07-03T15:53:41Z"
    assert campus["event"]["occurred_at"] == "2023-07-03T03:53:41Z"
    assert campus["event"]["zone_assumed"] is True
    assert "in a zone that was assumed" in command("check", "toolzz", "-", stdin=sent).stdout


def test_without_handlers_nobody_would_take_it(command: Callable[..., Any], tmp_path: Path) -> None:
    """A configuration is not needed either."""
    (tmp_path / "coursewire.toml").unlink()
    checked = command("check", "digitalchalk", "-", stdin=body("digitalchalk", "offering_completed"))
    assert checked.exit_code == 0
    assert "no configured handler: it would be ignored" in checked.stdout


def test_what_is_not_there(command: Callable[..., Any]) -> None:
    """Providers and sources by name: exit code 3."""
    unknown = command("check", "blackboard", "-", stdin=b"{}")
    assert unknown.exit_code == 3
    assert "installed: digitalchalk, toolzz" in unknown.stderr
    assert command("check", "toolzz", "-", "--source", "nobody", stdin=b"{}").exit_code == 3
