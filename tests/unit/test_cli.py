"""The skeleton of the command line: lazy commands, and errors as exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from redis.exceptions import ConnectionError as RedisAway

from console.cli import Commands, main
from coursewire.errors import AlreadyRunning, InvalidConfiguration, NotFound, ServerUnreachable, Skip


def test_every_file_is_a_command() -> None:
    """One file a command: each is listed, and has a help text of its own."""
    folder = Path(sys.modules["console.cli"].__file__ or "").parent
    files = {path.stem.replace("_", "-") for path in folder.glob("[!_]*.py")}
    assert files >= {"up", "receiver", "worker", "sweep", "migrate"}
    for name in sorted(files):
        helped = CliRunner().invoke(main, [name, "--help"])
        assert helped.exit_code == 0, name
        assert "--data-dir" in helped.output, name


def test_help_loads_nothing_heavy() -> None:
    """`coursewire --help` and the start of each process are fast: libraries are imported by who uses them."""
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\nfrom console.cli import main\n"
            "try: main(['--help'])\n"
            "except SystemExit: print(*sorted(sys.modules))",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")[-2]
    heavy = {"sqlalchemy", "celery", "redis", "marshmallow", "flask", "granian", "alembic", "rich", "tomlkit"}
    assert heavy & set(loaded.split()) == set()


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InvalidConfiguration("log_level", "is odd"), 2, "error: invalid_configuration: log_level: is odd"),
        (NotFound("there is no event 7"), 3, "error: not_found: there is no event 7"),
        (ServerUnreachable("it is\naway"), 4, "error: server_unreachable: it is away"),
        (
            RedisAway("secret@host"),
            4,
            "error: server_unreachable: a server that is needed does not answer (redis ConnectionError)",
        ),
        (AlreadyRunning("somebody holds it"), 1, "error: already_running: somebody holds it"),
        (Skip("no reason"), 1, "error: skipped: no reason"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(error: Exception, code: int, line: str) -> None:
    """1 found bad, 2 configuration, 3 not found, 4 server unreachable; no traceback, and no foreign text."""

    @click.command()
    def fails() -> None:
        raise error

    class WithOne(Commands):
        def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
            return fails

    result = CliRunner().invoke(WithOne("coursewire"), ["fails"])
    assert (result.exit_code, result.stderr.strip()) == (code, line)
    assert result.stdout == ""


def test_an_unknown_command_is_a_usage_error() -> None:
    """Exit code 2."""
    result = CliRunner().invoke(main, ["nonsense"])
    assert result.exit_code == 2
    assert "nonsense" in result.stderr
