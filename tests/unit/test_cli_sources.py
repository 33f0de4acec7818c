from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from console.config_file import write_first
from coursewire.settings import load_settings

COMMENTED = """\
# Ours since 2024.
public_url = "https://hooks.example.org/in/"

[sources.north]
provider = "digitalchalk"  # the campus
token = "north-token"  # told to Ana

# Handlers follow.
[handlers.audit]

[sources.south]
provider = "toolzz"
header = "X-Hook-Secret"
secret = "south-secret"

[sources.west]
provider = "toolzz"
username = "west"
password = ["newer", "older"]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "coursewire.toml"
    path.write_text(COMMENTED)
    return path


def test_sources_in_json_have_their_whole_url(command: Callable[..., Any], config: Path) -> None:
    """The shape that other programs rely on, by name."""
    listed = command("sources", "--json")
    assert listed.exit_code == 0
    assert orjson.loads(listed.stdout) == [
        {
            "name": "north",
            "provider": "digitalchalk",
            "url": "https://hooks.example.org/in/hooks/north/north-token",
        },
        {"name": "south", "provider": "toolzz", "url": "https://hooks.example.org/in/hooks/south"},
        {"name": "west", "provider": "toolzz", "url": "https://hooks.example.org/in/hooks/west"},
    ]


def test_a_table_of_sources_shows_no_secret(command: Callable[..., Any], config: Path) -> None:
    """Somebody may look over the shoulder; `--show` tells all."""
    printed = command("sources").stdout
    for secret in ("north-token", "south-secret", "newer", "older"):
        assert secret not in printed
    for said in ("/hooks/north/***", "the header X-Hook-Secret", "HTTP Basic as west, being rotated"):
        assert said in printed
    assert max(map(len, printed.splitlines())) <= 80
    shown = command("sources", "--show").stdout
    assert "  https://hooks.example.org/in/hooks/north/north-token\n" in shown
    assert "  header X-Hook-Secret: south-secret\n" in shown
    assert "  user west, password newer\n" in shown


def test_a_source_is_added(command: Callable[..., Any], config: Path, tmp_path: Path) -> None:
    """With a fresh token; every line that was there is there still; the file is its owner's alone."""
    added = command("sources", "add", "east", "--provider", "toolzz", "--timezone", "America/Bahia")
    assert added.exit_code == 0
    source = load_settings(tmp_path).sources["east"]
    token = source.tokens[0].reveal()
    assert (source.provider, str(source.timezone), len(token)) == ("toolzz", "America/Bahia", 43)
    assert f"  https://hooks.example.org/in/hooks/east/{token}\n" in added.stdout
    assert config.read_text().startswith(COMMENTED)
    assert stat.S_IMODE(config.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--auth", "header"), "header X-Hook-Secret: "),
        (("--auth", "header", "--header", "X-Key"), "header X-Key: "),
        (("--auth", "basic"), "user east, password "),
        (("--auth", "basic", "--username", "lms"), "user lms, password "),
    ],
)
def test_a_source_may_prove_itself_otherwise(
    command: Callable[..., Any], config: Path, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    """What the LMS needs is printed, and is what the configuration holds."""
    added = command("sources", "add", "east", "--provider", "toolzz", *words)
    assert added.exit_code == 0
    source = load_settings(tmp_path).sources["east"]
    (secret,) = (*source.secrets, *source.passwords)
    assert f"  {told}{secret.reveal()}\n" in added.stdout
    assert source.tokens == ()


def test_an_added_source_in_json(command: Callable[..., Any], config: Path) -> None:
    """One object as in the list."""
    added = orjson.loads(command("sources", "add", "east", "--provider", "toolzz", "--json").stdout)
    assert list(added) == ["name", "provider", "url"]
    assert added in orjson.loads(command("sources", "--json").stdout)


def test_the_first_source_of_an_installation(command: Callable[..., Any], tmp_path: Path) -> None:
    """Where there is no configuration yet, the first one is written, with the handlers."""
    assert command("sources", "add", "east", "--provider", "toolzz").exit_code == 0
    settings = load_settings(tmp_path)
    assert sorted(settings.sources) == ["digitalchalk", "east", "toolzz"]
    assert "certificates" in settings.handlers


def test_the_file_that_up_writes_keeps_its_comments(command: Callable[..., Any], tmp_path: Path) -> None:
    """A new source stands at the end, so that no comment moves away from what it is about."""
    path = tmp_path / "coursewire.toml"
    write_first(path)
    before = path.read_text()
    assert command("sources", "add", "east", "--provider", "toolzz").exit_code == 0
    assert path.read_text().startswith(before)
    assert command("sources", "rotate", "toolzz").exit_code == 0
    assert path.read_text().count("#") == before.count("#")


def test_sources_may_stand_in_one_inline_table(command: Callable[..., Any], tmp_path: Path) -> None:
    """TOML then allows no table at the end of the file."""
    (tmp_path / "coursewire.toml").write_text('sources = {a = {provider = "toolzz", token = "t"}}\n')
    assert command("sources", "add", "east", "--provider", "toolzz").exit_code == 0
    assert sorted(load_settings(tmp_path).sources) == ["a", "east"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("add", "north", "--provider", "toolzz"), 2),
        (("add", "Big Name", "--provider", "toolzz"), 2),
        (("add", "east", "--provider", "toolzz", "--timezone", "Mars/Base"), 2),
        (("add", "east"), 2),
        (("add", "east", "--provider", "blackboard"), 3),
        (("rotate", "nobody"), 3),
        (("rotate", "west"), 2),
    ],
)
def test_what_would_not_load_is_not_written(
    command: Callable[..., Any], config: Path, words: tuple[str, ...], code: int
) -> None:
    """The file stays as it was, to the byte."""
    assert command("sources", *words).exit_code == code
    assert config.read_text() == COMMENTED


@pytest.mark.parametrize(("name", "way"), [("north", "tokens"), ("south", "secrets")])
def test_a_secret_is_rotated(
    command: Callable[..., Any], config: Path, tmp_path: Path, name: str, way: str
) -> None:
    """The new one is in front and is what is told; the old one counts until it is dropped."""
    (old,) = getattr(load_settings(tmp_path).sources[name], way)
    rotated = command("sources", "rotate", name)
    assert rotated.exit_code == 0
    new, still = getattr(load_settings(tmp_path).sources[name], way)
    assert (still == old, new == old) == (True, False)
    assert new.reveal() in rotated.stdout
    assert old.reveal() not in rotated.stdout
    assert "# the campus" in config.read_text()
    assert command("sources", "rotate", name).exit_code == 2
    assert command("sources", "rotate", name, "--finish").exit_code == 0
    assert getattr(load_settings(tmp_path).sources[name], way) == (new,)
    again = command("sources", "rotate", name, "--finish")
    assert (again.exit_code, again.stdout.partition("\n")[0]) == (0, "There is no old secret. What counts:")


def test_a_rotation_that_was_begun_by_hand_is_finished(
    command: Callable[..., Any], config: Path, tmp_path: Path
) -> None:
    """The first of two is the new one."""
    assert command("sources", "rotate", "west", "--finish").exit_code == 0
    (password,) = load_settings(tmp_path).sources["west"].passwords
    assert password.reveal() == "newer"


def test_a_secret_that_is_kept_elsewhere_is_rotated_there(
    command: Callable[..., Any], config: Path, tmp_path: Path
) -> None:
    """It is not overwritten by a literal one; the message says where to look."""
    (tmp_path / "token").write_text("from-a-file")
    config.write_text(COMMENTED.replace('"north-token"', f'"file:{tmp_path}/token"'))
    before = config.read_text()
    refused = command("sources", "rotate", "north")
    assert refused.exit_code == 2
    assert "sources.north.token: is given as file: and kept elsewhere" in refused.stderr
    assert config.read_text() == before


def test_options_of_the_list_count_for_its_commands_too(config: Path, tmp_path: Path) -> None:
    """`--data-dir` before `add` must not send the new source to another directory."""
    from click.testing import CliRunner

    from console.cli import main

    words = ["sources", "--data-dir", str(tmp_path), "add", "east", "--provider", "toolzz"]
    assert CliRunner().invoke(main, words).exit_code == 0
    assert "east" in load_settings(tmp_path).sources


def test_a_link_to_the_configuration_stays_a_link(
    command: Callable[..., Any], config: Path, tmp_path: Path
) -> None:
    """Configuration may be kept elsewhere."""
    kept = config.rename(tmp_path / "kept.toml")
    config.symlink_to(kept)
    assert command("sources", "add", "east", "--provider", "toolzz").exit_code == 0
    assert config.is_symlink()
    assert "east" in kept.read_text()
