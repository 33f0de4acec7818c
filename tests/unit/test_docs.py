"""The documentation and the code say the same."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

from coursewire.errors import Code
from coursewire.settings import HandlerSchema, SourceSchema, TopLevel
from workers.handlers.notifications import Notifications

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows(text: str, heading: str) -> dict[str, list[str]]:
    """The cells behind the first one, by the code words of the first, of the tables under a heading."""
    section = text.split(heading, 1)[1].split("\n## ", 1)[0] if heading else text
    found = {}
    for line in section.splitlines():
        if line.startswith("| `"):
            first, *rest = (cell.strip() for cell in line.strip("|").split(" | "))
            for word in re.findall(r"`([^`]+)`", first):
                found[word] = rest
    return found


def shown(default: object) -> str:
    if default is None:
        return "–"
    if isinstance(default, list):
        return "`[]`"
    return f"`{default}`"


def test_the_table_of_settings_is_the_schema_of_settings():
    documented = rows(README, "## Settings")
    for name, field in TopLevel().fields.items():
        assert documented[name] == [shown(field.load_default), field.metadata["help"]], name


def test_no_setting_is_documented_that_does_not_exist():
    known = {
        *TopLevel().fields,
        *SourceSchema().fields,
        *HandlerSchema().fields,
        *Notifications.Options().fields,
    }
    assert set(rows(README, "## Settings")) == known


def test_the_keys_of_a_handler_are_documented():
    documented = rows(README, "A handler is a table")
    for name, field in {**HandlerSchema().fields, **Notifications.Options().fields}.items():
        assert documented[name] == [field.metadata["help"]], name


def test_every_error_code_is_documented():
    documented = rows((ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), "")
    assert sorted(documented) == sorted(Code)


def test_every_command_is_documented():
    from console.cli import main

    with main.make_context("coursewire", ["--help"], resilient_parsing=True) as context:
        commands = set(main.list_commands(context))
    missing = {name for name in commands if f"coursewire {name}" not in README and f"`{name}`" not in README}
    assert missing == set()


def test_every_handler_and_provider_is_named_in_the_readme():
    ours = {
        point.name
        for group in ("coursewire.handlers", "coursewire.providers")
        for point in entry_points(group=group)
        if point.dist is not None and point.dist.name == "coursewire"
    }
    assert {name for name in ours if f"`{name}`" not in README} == set()


def test_alerts_are_over_metrics_that_there_are():
    operations = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    metrics = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    named = {name.removesuffix("_bucket") for name in re.findall(r"coursewire_[a-z_]+(?=[{\[)])", operations)}
    assert {name for name in named if f"`{name}`" not in metrics} == set()
    assert len(named) >= 8


def test_operations_names_commands_that_there_are():
    from console.cli import main

    operations = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^coursewire ([a-z-]+)|`coursewire ([a-z-]+)", operations, re.MULTILINE))
    with main.make_context("coursewire", ["--help"], resilient_parsing=True) as context:
        commands = set(main.list_commands(context))
    assert {first or second for first, second in named} <= commands
