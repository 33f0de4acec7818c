from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import pytest

from console.cli import Commands, main
from console.options import Moment
from console.tables import age, one_line, plain, when

NOW = datetime(2024, 6, 6, 12, 0, tzinfo=UTC)


def all_commands() -> list[tuple[str, click.Command]]:
    assert isinstance(main, Commands)
    context = click.Context(main)
    found = []
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {sub}", each) for sub, each in command.commands.items()]
    return found


def test_the_commands_are_those_of_the_handbook() -> None:
    """One file each."""
    assert [name for name, _ in all_commands() if " " not in name] == [
        "backup", "certificates", "check", "dead-letters", "doctor", "events", "explain", "handlers",
        "migrate", "progress", "quarantine", "receiver", "replay", "restore", "send", "sources", "stats",
        "sweep", "up", "worker",
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "command"), all_commands(), ids=[name for name, _ in all_commands()])
def test_every_command_takes_a_data_directory_and_explains_itself(name: str, command: click.Command) -> None:
    """In words, of 80 columns at most."""
    assert "--data-dir" in {option for parameter in command.params for option in parameter.opts}
    assert command.help
    assert all(len(line) <= 80 for line in command.get_help(click.Context(command)).splitlines())


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-06-06", datetime(2024, 6, 6, tzinfo=UTC)),
        ("2024-06-06T10:30:00Z", datetime(2024, 6, 6, 10, 30, tzinfo=UTC)),
        ("2024-06-06 10:30", datetime(2024, 6, 6, 10, 30, tzinfo=UTC)),
        ("2024-06-06T10:30:00-03:00", datetime(2024, 6, 6, 13, 30, tzinfo=UTC)),
    ],
)
def test_a_time_without_an_offset_is_utc(text: str, moment: datetime) -> None:
    """Dates are their first moment."""
    assert Moment()(text) == moment


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("30s", timedelta(seconds=30)),
        ("90m", timedelta(minutes=90)),
        ("12h", timedelta(hours=12)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_a_time_may_be_told_by_how_long_ago_it_was(text: str, ago: timedelta) -> None:
    """Seconds, minutes, hours, days and weeks."""
    assert abs(datetime.now(UTC) - ago - Moment()(text)) < timedelta(seconds=10)


@pytest.mark.parametrize("text", ["yesterday", "7", "7y", "06/06/2024", "", "99999999999999d"])
def test_other_times_are_refused(text: str) -> None:
    """A date that could be read in two ways is none."""
    with pytest.raises(click.BadParameter):
        Moment()(text)


@pytest.mark.parametrize(
    ("function", "given", "expected"),
    [
        (when, NOW, "2024-06-06 12:00:00Z"),
        (when, None, ""),
        (age, 0.25, "0.2 s"),
        (age, 90, "1.5 min"),
        (age, 7200, "2.0 h"),
        (age, 36 * 3600, "1.5 d"),
        (plain, "a\x1b[31mb\x07\u202ec\n", "a\ufffd[31mb\ufffd\ufffdc\n"),
        (one_line, "a\n b\t\tc", "a b c"),
    ],
)
def test_how_values_are_shown(function: Callable[[Any], str], given: Any, expected: str) -> None:
    """To people, on one terminal."""
    assert function(given) == expected
