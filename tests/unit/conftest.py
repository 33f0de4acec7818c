from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner

from console.cli import main


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Runs a command line on the data directory `tmp_path`; click's result."""
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level

    def run(*words: str, stdin: bytes | None = None) -> Any:
        return CliRunner().invoke(main, [*words, "--data-dir", str(tmp_path)], input=stdin)

    yield run
    # A command configures logging for its process; here the process goes on.
    root.handlers[:] = kept
    root.setLevel(level)
    structlog.reset_defaults()
