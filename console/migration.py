"""Checking a configuration and migrating, in a process of its own: it loads plug-ins as they are now."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import NoReturn

from console.guard import Guard, kill_group
from coursewire.errors import Code, CoursewireError


async def migrate(command: Sequence[str], environment: Mapping[str, str], guard: Guard) -> dict[str, str]:
    """Run `coursewire migrate --json`. Returns each handler's kind; raises what the process ended with."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    guard.watch(process.pid)
    try:
        said, complained = await process.communicate()
    finally:
        kill_group(process.pid)
        guard.forget(process.pid)
        # Also when we are cancelled: its pipes must be closed before the loop is.
        await process.communicate()
    if process.returncode:
        _raise_again(complained.decode(errors="replace"))
    kinds: dict[str, str] = json.loads(said)["handlers"]
    return kinds


def _raise_again(complaint: str) -> NoReturn:
    last = next((line for line in reversed(complaint.splitlines()) if line.strip()), "it said nothing")
    # As the command line writes errors: `error: <code>: <detail>`.
    word, code, detail = [*last.split(": ", 2), "", ""][:3]
    if word == "error" and code in set(Code):
        raise CoursewireError(detail, code=Code(code))
    raise CoursewireError(f"`coursewire migrate` failed: {last}")
