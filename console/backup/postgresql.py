"""pg_dump and pg_restore, told by a file where the ledger is: a command line would show its password."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import make_url

from coursewire.errors import BackupFailed

SERVICE = "coursewire"


def dump(database_url: str, snapshot: str, to: Path) -> None:
    """What a transaction's exported snapshot sees, in pg_dump's custom format."""
    options = ["--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}"]
    _run("pg_dump", [*options, f"--file={to}", f"--dbname=service={SERVICE}"], database_url)


def load(database_url: str, dumped: Path) -> None:
    """All of it or nothing."""
    options = ["--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error"]
    _run("pg_restore", [*options, f"--dbname=service={SERVICE}", str(dumped)], database_url)


def _run(program: str, arguments: Sequence[str], database_url: str) -> None:
    found = shutil.which(program)
    if found is None:
        raise BackupFailed(
            f"{program} is not on the PATH: install PostgreSQL's client, of the server's version"
        )
    with tempfile.NamedTemporaryFile("w", prefix="coursewire-", suffix=".conf") as file:  # mode 0600
        file.write(_service(database_url))
        file.flush()
        environment = {**os.environ, "PGSERVICEFILE": file.name}
        ended = subprocess.run([found, *arguments], env=environment, capture_output=True, text=True)
    if ended.returncode:
        # Its first line only: others may quote a row.
        said = next(iter(ended.stderr.splitlines()), "").partition(": error: ")[2]
        raise BackupFailed(f"{program} ended with status {ended.returncode}: {said or 'it said nothing'}")


def _service(database_url: str) -> str:
    """As SQLAlchemy would connect."""
    url = make_url(database_url)
    _, given = url.get_dialect()().create_connect_args(url)
    lines = [f"{name}={value}" for name, value in given.items() if isinstance(value, str | int)]
    return "\n".join([f"[{SERVICE}]", *lines, ""])
