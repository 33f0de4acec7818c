"""`python -m console` is `coursewire`."""

from __future__ import annotations

from console.cli import main

main(prog_name="coursewire")
