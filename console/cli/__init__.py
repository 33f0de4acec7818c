"""The command line: one file a command in this folder, imported only when its command is called.

A file holds a click command (or group) named `command`; its own name, with hyphens, is the command's. Heavy
imports stand inside the functions, so that `--help` and each process start fast. Files with a leading
underscore are no commands.

Exit codes: 0 good, 1 found bad, 2 usage or configuration, 3 not found, 4 server unreachable.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from coursewire.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

# By the code of the error; every other code is 1.
EXIT_CODES = {
    "invalid_configuration": 2,
    "invalid_plugin": 2,
    "not_found": 3,
    "server_unreachable": 4,
}
# Errors of libraries that mean: the server does not answer. By name, so that no library is imported for them.
_UNREACHABLE = {
    ("redis.exceptions", "ConnectionError"),
    ("redis.exceptions", "TimeoutError"),
    ("kombu.exceptions", "OperationalError"),
    ("sqlalchemy.exc", "OperationalError"),
}


class Commands(click.Group):
    """The files of this folder as commands, and one place where errors become exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(
            name.replace("_", "-")
            for _, name, _ in iter_modules([str(Path(__file__).parent)])
            if not name.startswith("_")
        )

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        module = import_module(f"{__name__}.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as exc:
            known = explained(exc)
            if known is None:
                raise
            code, detail = known
            click.echo(f"error: {code}: {detail}", err=True)
            ctx.exit(EXIT_CODES.get(code, 1))


def explained(exc: Exception) -> tuple[str, str] | None:
    """Code and one line of an error that an operator can act on; None for a fault of ours."""
    from coursewire.errors import Code, CoursewireError

    if isinstance(exc, CoursewireError):
        return exc.code, " ".join(exc.detail.split())
    if any((kind.__module__, kind.__name__) in _UNREACHABLE for kind in type(exc).__mro__):
        # Its own text may hold a password.
        which = f"{type(exc).__module__.partition('.')[0]} {type(exc).__name__}"
        return Code.SERVER_UNREACHABLE, f"a server that is needed does not answer ({which})"
    return None


def _absolute(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path:
    from coursewire.settings import data_dir_from_environment

    return (value or data_dir_from_environment()).absolute()


def data_dir_option(function: F) -> F:
    """`--data-dir`, which every command takes: the function gets `data_dir`, an absolute path."""
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        callback=_absolute,
        help="Where everything is kept. [default: COURSEWIRE_DATA_DIR, else ./.coursewire]",
    )(function)


def heartbeat_option(function: F) -> F:
    """For processes that `coursewire up` supervises: the function gets `heartbeat_file`, a path or None."""
    return click.option("--heartbeat-file", type=click.Path(dir_okay=False, path_type=Path), hidden=True)(
        function
    )


def metrics_options(function: F) -> F:
    """For processes that serve nothing else: the function gets `metrics_host` and `metrics_port` (0: off)."""
    port = click.option(
        "--metrics-port",
        default=0,
        type=click.IntRange(0, 65535),
        help="Serve Prometheus metrics at /metrics on this port. [default: off]",
    )
    host = click.option(
        "--metrics-host", default="127.0.0.1", show_default=True, help="Address for the metrics."
    )
    return port(host(function))


def process_settings(data_dir: Path, heartbeat_file: Path | None = None) -> Settings:
    """What a process of the stack begins with: its sign of life, the configuration, then its logs."""
    from coursewire import heartbeat

    heartbeat.start(heartbeat_file)
    from coursewire.logs import configure
    from coursewire.settings import load_settings

    settings = load_settings(data_dir)
    configure(settings.log_level)
    return settings


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="coursewire", message="%(version)s")
def main() -> None:
    """Receives the callbacks of learning management systems and turns each one into effects, once."""


if __name__ == "__main__":
    sys.exit(main())
