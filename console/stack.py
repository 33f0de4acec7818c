"""The parts that `coursewire up` runs: in which order they start and stop, and how they follow a change."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from console import private, probes, valkey
from console.commands import RECEIVER, WORKERS, Commands
from console.guard import Guard
from console.migration import migrate
from console.part import Part, Surroundings
from coursewire.errors import Code, CoursewireError, ServerUnreachable
from coursewire.settings import Settings, Source

# Until every part works at the first start. Valkey may have much to load before.
READY_SECONDS = 60.0
LOADING_SECONDS = 600.0
FAILURES = 3
# On a change of the configuration: longer than any task may take.
FINISH_SECONDS = 45.0
KNOWN_SECONDS = 5.0
# The end of each turn after the order to stop; the last within the 10 s that an operator is promised.
RECEIVER_STOPPED_SECONDS = 5.5
WORKERS_STOPPED_SECONDS = 8.2
VALKEY_STOPPED_SECONDS = 9.2

VALKEY = "valkey"


class Stack:
    """`server_lock` is what our own Valkey inherits; None where another server is used."""

    def __init__(
        self,
        settings: Settings,
        host: str,
        port: int,
        *,
        server_lock: int | None,
        say: Callable[[str], None],
        metrics_port: int = 0,
    ) -> None:
        self.settings = settings
        self._host = host
        self._port = port
        self._server_lock = server_lock
        self._commands = Commands(settings.data_dir, metrics_port)
        logs = settings.data_dir / "logs"
        for folder in (self._commands.run, logs):
            folder.mkdir(mode=0o700, exist_ok=True)
        # The parts read a copy, so that a change which is not valid does not stop one that is started again.
        self._configuration = self._commands.run / "coursewire.toml"
        self.guard = Guard()
        environment = self._commands.environment(self._configuration)
        self._around = Surroundings(self.guard, logs, environment, say)
        self._parts: dict[str, Part] = {}
        self._rolling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start everything; returns when every part does its work. Raises `CoursewireError`."""
        _copy(self.settings, self._configuration)
        migrating = asyncio.create_task(self._migrate(self._configuration))
        try:
            if self._server_lock is not None:
                server = self._valkey(self._server_lock)
                server.start()
                await self._until_ready([server], LOADING_SECONDS)
            else:
                await asyncio.to_thread(_check_server, self.settings)
            # It needs no ledger, so it starts beside the migration.
            self._process(RECEIVER, self._commands.receiver(self._host, self._port)).start()
            kinds = await migrating
        finally:
            migrating.cancel()
            await asyncio.gather(migrating, return_exceptions=True)
        for name, arguments in self._commands.workers(kinds).items():
            self._process(name, arguments).start()
        await self._until_ready(self._parts.values(), READY_SECONDS)

    async def apply(self, settings: Settings) -> None:
        """Go over to a changed configuration, without refusing a connection. Raises `CoursewireError`."""
        for key in ("redis_url", "broker_url", "database_url", "namespace"):
            if getattr(settings, key) != getattr(self.settings, key):
                raise CoursewireError(
                    f"{key} needs a new start of `coursewire up`", code=Code.INVALID_CONFIGURATION
                )
        candidate = self._commands.run / "candidate.toml"
        _copy(settings, candidate)
        kinds = await self._migrate(candidate)
        candidate.replace(self._configuration)
        before, self.settings = self.settings, settings
        self._parts[RECEIVER].send(signal.SIGHUP)
        await self._until_known(sorted(set(settings.sources) - set(before.sources)))
        if _without_secrets(before) != _without_secrets(settings):
            # Beside what may be asked next: a secret that is rotated now counts at once.
            self._stop_rolling()
            self._rolling = asyncio.create_task(self._roll(self._commands.workers(kinds)))

    async def _until_known(self, sources: Iterable[str]) -> None:
        """Until the receiver takes callbacks of new sources: their URLs work when they are printed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(KNOWN_SECONDS):
                for source in sources:
                    while not await probes.knows(reachable(self._host), self._port, source):
                        await asyncio.sleep(0.05)

    def _stop_rolling(self) -> None:
        if self._rolling is not None:
            self._rolling.cancel()

    async def _roll(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Give the workers the changed configuration, one after another: the others work on meanwhile."""
        for name in WORKERS:
            if name not in wanted:
                if name in self._parts:
                    await self._parts[name].stop(by=time.monotonic() + FINISH_SECONDS)
                    del self._parts[name]
                continue
            if name in self._parts:
                part = self._parts[name]
                part.arguments = _always(wanted[name])
                part.restart(by=time.monotonic() + FINISH_SECONDS)
            else:
                part = self._process(name, wanted[name])
                part.start()
            with suppress(TimeoutError):
                await asyncio.wait_for(part.ready.wait(), FINISH_SECONDS + READY_SECONDS)

    async def stop(self) -> None:
        """Stop everything in order: first nothing more is taken, last the inbox is closed."""
        began = time.monotonic()
        self._stop_rolling()
        for names, seconds in (
            ((RECEIVER,), RECEIVER_STOPPED_SECONDS),
            (WORKERS, WORKERS_STOPPED_SECONDS),
            ((VALKEY,), VALKEY_STOPPED_SECONDS),
        ):
            parts = [self._parts[name] for name in names if name in self._parts]
            await asyncio.gather(*(part.stop(by=began + seconds) for part in parts))
        await asyncio.to_thread(self.guard.close)

    def _valkey(self, server_lock: int) -> Part:
        self._parts[VALKEY] = Part(
            VALKEY,
            lambda: valkey.arguments(self.settings.data_dir),
            probes.redis(self.settings.redis_url),
            self._around,
            folder=valkey.folder(self.settings.data_dir),
            inherits=(server_lock,),
            turn=1,  # after those that write to it
        )
        return self._parts[VALKEY]

    def _process(self, name: str, arguments: Sequence[str]) -> Part:
        beat = self._commands.beat(name)
        probe = probes.heartbeat(beat)
        if name == RECEIVER:
            probe = probes.both(probe, probes.receiver(reachable(self._host), self._port))
        self._parts[name] = Part(
            name, _always(arguments), probe, self._around, before=lambda: beat.unlink(missing_ok=True)
        )
        return self._parts[name]

    async def _migrate(self, configuration: Path) -> dict[str, str]:
        return await migrate(self._commands.migrate(), self._commands.environment(configuration), self.guard)

    async def _until_ready(self, parts: Iterable[Part], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while waiting := [part for part in parts if not part.ready.is_set()]:
            failed = [part for part in waiting if part.failures >= FAILURES]
            if failed or time.monotonic() > deadline:
                what = "; ".join(f"{part.name}: {part.last_words()}" for part in failed or waiting)
                raise CoursewireError(f"not everything starts: {what} (logs are in {self._around.logs})")
            await asyncio.sleep(0.05)


def reachable(host: str) -> str:
    """The address under which this host reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104


def _without_secrets(settings: Settings) -> Settings:
    """What the workers read of it; how sources prove themselves is the receiver's matter."""
    shapes = {
        name: Source(name, source.provider, source.timezone) for name, source in settings.sources.items()
    }
    return replace(settings, sources=shapes, installation_key=None)


def _copy(settings: Settings, to: Path) -> None:
    path = settings.config_path
    private.write(to, path.read_bytes() if path is not None else b"")


def _always(arguments: Sequence[str]) -> Callable[[], Sequence[str]]:
    return lambda: arguments


def _check_server(settings: Settings) -> None:
    from redis.exceptions import RedisError

    from coursewire.inbox import connect

    client = connect(settings.redis_url, timeout_seconds=5.0)
    try:
        client.ping()
    except RedisError as exc:
        raise ServerUnreachable(f"the server of redis_url does not answer: {type(exc).__name__}") from exc
    finally:
        client.close()
