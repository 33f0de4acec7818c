"""One supervised process: started again when it dies or hangs, until it is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from console.guard import Guard, kill_group
from console.probes import ANSWER_SECONDS, Life, Probe

# Several looks that found nothing, so that a busy machine is not taken for a hung process.
HUNG_SECONDS = 15.0
# A cold start on a busy machine: nothing is expected before.
STARTING_SECONDS = 60.0
LOOK_SECONDS = 1.0
STARTING_LOOK_SECONDS = 0.1
# A process that lived as long did not die of its start, and is started again at once.
SETTLED_SECONDS = 10.0
FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 10.0
LOG_BYTES = 10 << 20


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the parts of one stack share. `say` tells the operator one line."""

    guard: Guard
    logs: Path
    environment: Mapping[str, str]
    say: Callable[[str], None]


class Part:
    """`arguments` makes the command line anew for each start; `before` clears what the last one left.

    Each process leads a session of its own: a Ctrl-C does not reach it, and what it forked dies with it.
    """

    def __init__(
        self,
        name: str,
        arguments: Callable[[], Sequence[str]],
        probe: Probe,
        surroundings: Surroundings,
        *,
        before: Callable[[], None] = lambda: None,
        folder: Path | None = None,
        inherits: tuple[int, ...] = (),
        turn: int = 0,
    ) -> None:
        self.name = name
        self.arguments = arguments
        self.ready = asyncio.Event()
        self.failures = 0
        """How often in a row it died soon after its start."""
        self._probe = probe
        self._around = surroundings
        self._before = before
        self._folder = folder
        self._inherits = inherits
        self._turn = turn
        self._asked = asyncio.Event()
        self._ended_by = 0.0
        self._stopping = False
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def log(self) -> Path:
        return self._around.logs / f"{self.name}.log"

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=self.name)

    def send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    def restart(self, *, by: float) -> None:
        """End it in good order, at the latest `by` (of the monotonic clock), and start its successor."""
        self.ready.clear()
        self._ended_by = by
        self._asked.set()

    async def stop(self, *, by: float) -> None:
        """End it for good: SIGTERM, and SIGKILL for the whole group `by` then (of the monotonic clock)."""
        self._stopping = True
        self._ended_by = by
        self._asked.set()
        if self._task is not None:
            await self._task

    def last_words(self) -> str:
        """The last line of its log."""
        with suppress(OSError), self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
            return next((line.strip()[:500] for line in reversed(lines) if line.strip()), "")
        return ""

    async def _run(self) -> None:
        while not self._stopping:
            self._asked.clear()
            self.ready.clear()
            began = time.monotonic()
            why = await self._live()
            if why is None or self._stopping:
                continue
            self.failures = self.failures + 1 if time.monotonic() - began < SETTLED_SECONDS else 0
            delay = min(FIRST_DELAY_SECONDS * 2 ** min(self.failures - 1, 10), LONGEST_DELAY_SECONDS)
            delay = delay if self.failures else 0.0
            when = f"in {delay:g} s" if delay else "now"
            self._around.say(f"{self.name} {why}; it is started again {when} (see {self.log})")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), delay)

    async def _live(self) -> str | None:
        """One life of the process. Why it ended, or None when it was asked to."""
        self._before()
        try:
            process = await self._spawn()
        except OSError as exc:
            return f"cannot be started ({exc.strerror})"
        self._process = process
        self._around.guard.watch(process.pid, turn=self._turn)
        ended = asyncio.create_task(process.wait())
        asked = asyncio.create_task(self._asked.wait())
        hung = asyncio.create_task(self._until_silent())
        try:
            await asyncio.wait({ended, asked, hung}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return _described(ended.result())
            if asked.done():
                await self._ask_to_end(process, ended)
                return None
            return "does not answer"
        finally:
            asked.cancel()
            hung.cancel()
            # Also when the leader ended by itself: its children may live on.
            kill_group(process.pid)
            await ended
            self._around.guard.forget(process.pid)

    async def _spawn(self) -> asyncio.subprocess.Process:
        with suppress(OSError):
            if self.log.stat().st_size > LOG_BYTES:
                self.log.replace(self.log.with_suffix(".log.1"))
        log = os.open(self.log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        try:
            return await asyncio.create_subprocess_exec(
                *self.arguments(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=self._around.environment,
                pass_fds=self._inherits,
                start_new_session=True,
            )
        finally:
            os.close(log)

    async def _until_silent(self) -> None:
        patience, silent = STARTING_SECONDS, 0.0
        while silent < patience:
            began = time.monotonic()
            life = await self._probe(self.ready.is_set())
            if life is Life.READY and not self._asked.is_set():
                self.ready.set()
            await asyncio.sleep(LOOK_SECONDS if self.ready.is_set() else STARTING_LOOK_SECONDS)
            # When we were stopped ourselves, or the machine slept, that is nobody's silence.
            silent += min(time.monotonic() - began, LOOK_SECONDS + ANSWER_SECONDS)
            if life is not Life.SILENT:
                patience, silent = HUNG_SECONDS, 0.0

    async def _ask_to_end(self, process: asyncio.subprocess.Process, ended: asyncio.Task[int]) -> None:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
        while not ended.done() and time.monotonic() < self._ended_by:
            await asyncio.wait({ended}, timeout=0.1)  # `stop` may move the end closer


def _described(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
