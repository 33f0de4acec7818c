"""How the rate of one handler grows with its workers: 1 and 4 of them, with an effect that takes 50 ms.

    python -m bench.scaling [--seconds 10] [--effect 0.05]

Prints deliveries a second as JSON: for one worker, for one with four processes (`--concurrency 4`) and for
four with one process each; and how long after the first one all of them were at work (`joined_seconds`). All
is real: PostgreSQL, Valkey, `coursewire worker`, `coursewire sweep`; the ledger is filled by ingest.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import func, select

from coursewire.event import new_id
from coursewire.hints import make_celery
from coursewire.inbox import encode
from coursewire.ledger.engine import reading
from coursewire.ledger.migrate import migrate
from coursewire.ledger.tables import deliveries, utc_now
from coursewire.plugins import Callback
from coursewire.settings import load_settings
from workers.context import Context
from workers.ingest import run_once

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import servers  # noqa: E402 - the private servers of the tests

SAMPLE = ROOT / "schemas" / "samples" / "digitalchalk" / "offering_completed.json"
CONFIG = """
[sources.chalk]
provider = "digitalchalk"
token = "chalk-token"

[handlers.probe]
uses = "coursewire-bench-sleeps"
seconds = {effect}
"""
# What pip would write for a distribution with one entry point.
METADATA = "Metadata-Version: 2.1\nName: coursewire-bench\nVersion: 1.0.0\n"
ENTRY_POINTS = "[coursewire.handlers]\ncoursewire-bench-sleeps = bench.probe:Sleeps\n"
WORKERS = {"1": [1], "4 by --concurrency": [4], "4 by processes": [1, 1, 1, 1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--effect", type=float, default=0.05)
    options = parser.parse_args()
    with ExitStack() as stack:
        server = stack.enter_context(servers.postgresql())
        redis = stack.enter_context(servers.redis())
        plugin = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cw-")))
        install(plugin)
        found = {}
        for name, concurrencies in WORKERS.items():
            with ExitStack() as one, servers.database(server) as database:
                folder = Path(one.enter_context(tempfile.TemporaryDirectory(prefix="cw-")))
                (folder / "coursewire.toml").write_text(CONFIG.format(effect=options.effect))
                environment = {
                    "COURSEWIRE_DATA_DIR": str(folder),
                    "COURSEWIRE_DATABASE_URL": database,
                    "COURSEWIRE_REDIS_URL": redis,
                    "COURSEWIRE_NAMESPACE": f"b{os.urandom(4).hex()}",
                    "PYTHONPATH": os.pathsep.join([str(plugin), str(ROOT)]),
                }
                os.environ.update(environment)
                found[name] = measure(concurrencies, options.seconds, options.effect)
    one_worker = found["1"]["rate"]
    ratios = {name: round(one["rate"] / one_worker, 2) for name, one in found.items()}
    print(json.dumps({"effect_seconds": options.effect, "workers": found, "ratio": ratios}, indent=2))


def install(folder: Path) -> None:
    """Make the probe known as an installed plug-in, to this process and to those that it starts."""
    info = folder / "coursewire_bench-1.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    sys.path[:0] = [str(folder), str(ROOT)]


def measure(concurrencies: Sequence[int], seconds: float, effect: float) -> dict[str, float]:
    settings = load_settings()
    migrate(settings)
    ctx = Context.open(settings, make_celery(settings))
    workers = sum(concurrencies)
    fill(ctx, int(workers * (seconds + 15) / effect))
    with ExitStack() as stack:
        stack.enter_context(part("sweep"))
        for concurrency in concurrencies:
            stack.enter_context(
                part("worker", "--queues", "handler.probe", "--concurrency", str(concurrency))
            )
        servers.until(lambda: at_work(ctx) > 0, seconds=30, what="the first worker")
        began = time.monotonic()
        servers.until(lambda: at_work(ctx) == workers, seconds=30, what="all workers")
        joined = time.monotonic() - began
        first, since = done(ctx), time.monotonic()
        time.sleep(seconds)
        rate = (done(ctx) - first) / (time.monotonic() - since)
    ctx.engine.dispose()
    ctx.inbox.close()
    return {"rate": round(rate, 1), "joined_seconds": round(joined, 1)}


def fill(ctx: Context, count: int) -> None:
    sample = json.loads(SAMPLE.read_bytes())
    ctx.inbox.ensure()
    for first in range(0, count, 500):
        bodies = []
        for number in range(first, min(first + 500, count)):
            sample["registration"]["id"] = f"r{number}"
            bodies.append(json.dumps(sample).encode())
        ctx.inbox.append([encode(callback(body), "digitalchalk") for body in bodies])
    while run_once(ctx):
        pass


def callback(body: bytes) -> Callback:
    return Callback(
        receipt=new_id(), source="chalk", body=body, received_at=utc_now(), verified_by="path_token"
    )


def at_work(ctx: Context) -> int:
    """How many processes hold a claim."""
    return count(
        ctx, select(func.count(deliveries.c.token.distinct())).where(deliveries.c.state == "running")
    )


def done(ctx: Context) -> int:
    return count(ctx, select(func.count()).where(deliveries.c.state == "done"))


def count(ctx: Context, statement) -> int:
    with reading(ctx.engine) as db:
        return db.scalar(statement) or 0


@contextmanager
def part(*words: str) -> Iterator[None]:
    """A part of the installation, as production starts it."""
    process = subprocess.Popen(
        [Path(sys.executable).with_name("coursewire"), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


if __name__ == "__main__":
    main()
