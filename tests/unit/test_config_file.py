from __future__ import annotations

import stat
from pathlib import Path

import pytest

from console.config_file import read, save, write_first
from coursewire.handlers import configured
from coursewire.settings import load_settings


@pytest.fixture
def first(tmp_path: Path) -> Path:
    path = tmp_path / "coursewire.toml"
    write_first(path)
    return path


def test_the_first_configuration_loads(first: Path) -> None:
    """It has a source for each LMS, and the four handlers, and every plug-in takes its options."""
    settings = load_settings(first.parent)
    assert {name: source.provider for name, source in settings.sources.items()} == {
        "digitalchalk": "digitalchalk",
        "toolzz": "toolzz",
    }
    assert {name: handler.plugin.kind for name, handler in configured(settings).items()} == {
        "audit": "record",
        "progress": "record",
        "certificates": "record",
        "notifications": "send",
    }


def test_tokens_are_fresh_and_long(first: Path, tmp_path: Path) -> None:
    """No two sources and no two installations share a token."""
    other = tmp_path / "other"
    other.mkdir()
    write_first(other / "coursewire.toml")
    tokens = [
        source.tokens[0].reveal()
        for folder in (first.parent, other)
        for source in load_settings(folder).sources.values()
    ]
    assert len(set(tokens)) == 4
    assert all(len(token) == 43 for token in tokens)


def test_only_its_owner_reads_it(first: Path) -> None:
    """It holds secrets: 0600, when it is written first and after a change."""
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    save(first, read(first))
    assert stat.S_IMODE(first.stat().st_mode) == 0o600


def test_a_configuration_is_never_overwritten(first: Path) -> None:
    """`write_first` only writes where no file is."""
    with pytest.raises(FileExistsError):
        write_first(first)


def test_a_change_keeps_the_comments(first: Path) -> None:
    """Only what is changed changes."""
    before = first.read_text()
    document = read(first)
    document["sources"]["lms"] = {"provider": "toolzz", "token": "t"}  # type: ignore[index]
    save(first, document)
    after = first.read_text()
    assert [line for line in before.splitlines() if line not in after.splitlines()] == []
    assert sorted(load_settings(first.parent).sources) == ["digitalchalk", "lms", "toolzz"]
    assert [path.name for path in first.parent.iterdir()] == ["coursewire.toml"]
