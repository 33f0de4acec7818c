"""The guard: a small process that outlives a killed supervisor just long enough to end what it had started.

Run as a script, it is told on its standard input which process groups there are. When that input ends, the
supervisor is gone, however it went. A process of its own can do what no thread of a child and no signal of
the kernel can: end stopped processes, grandchildren, and programs that are not ours, on every system.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PATIENCE_SECONDS = 3.0


class Guard:
    """The supervisor's side. Ending this object in any way ends every group that it still watches."""

    def __init__(self) -> None:
        self._watched: dict[int, int] = {}
        self._process = self._spawn()

    def watch(self, group: int, *, turn: int = 0) -> None:
        """End this process group when the supervisor is gone; groups of a lower turn end first."""
        self._watched[group] = turn
        self._tell(f"watch {group} {turn}")

    def forget(self, group: int) -> None:
        if self._watched.pop(group, None) is not None:
            self._tell(f"forget {group}")

    def revive(self) -> bool:
        """Start the guard again if it died; whether it had."""
        if self._process.poll() is None:
            return False
        self._hang_up()
        self._process = self._spawn()
        for group, turn in self._watched.items():
            self._tell(f"watch {group} {turn}")
        return True

    def close(self) -> None:
        """Let it go; it ends what is still watched."""
        self._hang_up()
        try:
            self._process.wait(3 * PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).absolute())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            # Out of reach of a Ctrl-C, and of whoever kills the supervisor with its whole group.
            start_new_session=True,
        )

    def _hang_up(self) -> None:
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()

    def _tell(self, line: str) -> None:
        # A guard that died is found and told again by `revive`.
        with suppress(OSError, ValueError):
            if self._process.stdin is not None:
                self._process.stdin.write(f"{line}\n".encode())
                self._process.stdin.flush()


def kill_group(group: int) -> None:
    # PermissionError is what macOS answers for a group of zombies.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def end_groups(groups: list[int], patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Ask each group's leader to end, wait for all of the group, then kill what is left."""
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(group, signal.SIGTERM)
            os.killpg(group, signal.SIGCONT)
    deadline = time.monotonic() + patience_seconds
    while any(map(_lives, groups)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for group in groups:
        kill_group(group)


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watched: dict[int, int] = {}
    for line in sys.stdin:
        verb, group, *turn = line.split()
        if verb == "watch":
            watched[int(group)] = int(turn[0])
        else:
            watched.pop(int(group), None)
    for now in sorted(set(watched.values())):
        end_groups([group for group, turn in watched.items() if turn == now])


if __name__ == "__main__":
    main()
