from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine

from coursewire import plugins
from coursewire.errors import InvalidPlugin, NotFound, Skip
from coursewire.event import Event
from coursewire.plugins import HANDLERS, PROVIDERS, Handler, Outcome, Provider, load, load_all

ROOT = Path(__file__).parents[2]
OURS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts a distribution that offers handlers onto the path, as an installer would."""
    monkeypatch.syspath_prepend(tmp_path)
    written: set[str] = set()

    def put(name: str, offers: Mapping[str, str], **modules: str) -> None:
        info = tmp_path / f"{name.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = [f"{entry} = {value}" for entry, value in offers.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{HANDLERS}]", *lines, ""]))
        written.update(modules)
        for module, source in modules.items():
            (tmp_path / f"{module}.py").write_text(dedent(source))
        plugins._points.cache_clear()

    yield put
    plugins._points.cache_clear()
    for module in written:
        sys.modules.pop(module, None)


def test_a_foreign_handler_comes_in_by_the_same_door(install: Callable[..., None]) -> None:
    """An entry point of another distribution is found by its name, beside ours."""
    install(
        "plugin-good",
        {"stamp": "plugin_good:Stamp"},
        plugin_good="""
            from coursewire import Handler
            class Stamp(Handler):
                def send(self, event, key): ...
        """,
    )
    assert load(HANDLERS, "stamp", Handler).kind == "send"
    assert set(load_all(HANDLERS, Handler)) >= {"stamp", "audit", "progress"}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("1 / 0", "ZeroDivisionError"),
        ("Other = 1", "AttributeError"),
        ("Broken = 1", "is no Handler"),
        ("class Broken: ...", "is no Handler"),
        ("from coursewire import Handler\nclass Broken(Handler): ...", "has neither record nor send"),
        (
            """
            from coursewire import Handler
            class Broken(Handler):
                def record(self, event, db): ...
                def send(self, event, key): ...
            """,
            "has both record and send",
        ),
    ],
)
def test_what_cannot_be_loaded_names_entry_point_value_and_distribution(
    install: Callable[..., None], source: str, said: str
) -> None:
    """An operator reads at boot which distribution to repair or remove, and why."""
    install("plugin-broken", {"broken": "plugin_broken:Broken"}, plugin_broken=source)
    with pytest.raises(InvalidPlugin) as caught:
        load(HANDLERS, "broken", Handler)
    message = str(caught.value)
    assert said in message
    assert message.startswith("coursewire.handlers broken = plugin_broken:Broken of plugin-broken 1.2 ")
    with pytest.raises(InvalidPlugin):
        load_all(HANDLERS, Handler)


def test_a_name_that_is_offered_twice_is_refused(install: Callable[..., None]) -> None:
    """Which of two is meant is not guessed; both are named."""
    install("plugin-one", {"audit": "plugin_one:Audit"})
    with pytest.raises(InvalidPlugin, match="offered twice") as caught:
        load(HANDLERS, "audit", Handler)
    assert "audit = plugin_one:Audit of plugin-one 1.2" in str(caught.value)
    assert "audit = workers.handlers.audit:Audit of coursewire 0.1.0" in str(caught.value)


def test_an_unknown_name_lists_what_is_installed() -> None:
    """A typing mistake is seen at once."""
    with pytest.raises(NotFound, match=r"no plug-in 'audiit'.*installed: .*audit, certificates"):
        load(HANDLERS, "audiit", Handler)


@pytest.mark.parametrize("name", sorted(OURS[HANDLERS]))
def test_our_handlers_load_and_take_no_options(name: str) -> None:
    """Every handler of our pyproject is there, wants something, and works without configuration."""
    handler = load(HANDLERS, name, Handler)
    assert handler.__module__ == f"workers.handlers.{name}"
    assert handler.wants
    made = handler(name, handler.Options().load({}))
    assert (made.name, made.kind) == (name, "send" if name == "notifications" else "record")
    tables = handler.metadata.tables if handler.metadata else {}
    assert all(table.startswith(f"{name}_") for table in tables)


@pytest.mark.parametrize("name", sorted(OURS[PROVIDERS]))
def test_our_providers_load(name: str) -> None:
    """Every provider of our pyproject is there under its own name."""
    assert load(PROVIDERS, name, Provider).name == name


def test_what_is_installed_is_what_pyproject_says() -> None:
    """An entry point that is only in the file, or only installed, would be found by nobody or by all."""
    installed = distribution("coursewire").entry_points
    for group in (HANDLERS, PROVIDERS):
        assert {point.name: point.value for point in installed.select(group=group)} == OURS[group]


@pytest.mark.parametrize("name", ["coursewire", "schemas", "receiver", "workers", "console"])
def test_nobody_else_claims_our_import_names(name: str) -> None:
    """Another distribution that ships `schemas` overwrites ours without a word: only this test says so."""
    assert set(packages_distributions().get(name, [])) <= {"coursewire"}
    assert Path(str(import_module(name).__file__)) == ROOT / name / "__init__.py"


class OnlyRecord(Handler):
    def record(self, event: Event, db: Connection) -> list[Event] | None:
        raise Skip("why")


class OnlyBatch(Handler):
    def record_batch(self, events: Sequence[Event], db: Connection) -> list[Outcome]:
        return [Skip("why") for _ in events]


@pytest.mark.parametrize("plugin", [OnlyRecord, OnlyBatch])
def test_record_and_record_batch_follow_from_each_other(plugin: type[Handler]) -> None:
    """A class writes either; the other one gives the same verdicts."""
    event: Any = SimpleNamespace(id="e")
    handler = plugin("h", {})
    assert handler.kind == "record"
    engine = create_engine("sqlite://")
    with engine.begin() as db:
        (outcome,) = handler.record_batch([event], db)
        assert str(outcome) == "why"
        with pytest.raises(Skip, match="why"):
            handler.record(event, db)
    engine.dispose()


def test_a_handler_without_either_says_so() -> None:
    """Calling what a class does not have is a mistake of the caller, not an endless recursion."""

    class Neither(Handler): ...

    nothing: Any = None
    assert not hasattr(Neither, "kind")
    with pytest.raises(TypeError, match="Neither has no record"):
        Neither("n", {}).record(nothing, nothing)
    with pytest.raises(TypeError, match="Neither has no send"):
        Neither("n", {}).send(nothing, "key")
