"""What every test shares: a clean environment, private servers, and a pipeline in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select

from coursewire.event import new_id
from coursewire.hints import make_celery
from coursewire.inbox import encode
from coursewire.ledger.engine import reading
from coursewire.ledger.migrate import migrate
from coursewire.ledger.tables import deliveries, utc_now
from coursewire.plugins import Callback
from coursewire.settings import Settings, build_settings
from workers.context import Context
from workers.deliver import Deliverer
from workers.ingest import run_once

sys.path.insert(0, str(Path(__file__).parent))
import servers  # tests are no package: what they share is found by its folder

# A developer's own configuration must not reach a test.
for name in [name for name in os.environ if name.startswith("COURSEWIRE_")]:
    del os.environ[name]


@pytest.fixture(name="until", scope="session")
def until_fixture() -> Callable[..., None]:
    return servers.until


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """The URL of a private Valkey, synced to disk at each write, for all tests of this process."""
    with servers.redis() as url:
        yield url


@pytest.fixture(scope="session")
def redis_7() -> Iterator[str]:
    """The URL of a private Redis 7.0 of this machine, synced to disk at each write."""
    with servers.redis("redis") as url:
        yield url


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[servers.Server]:
    """A private RabbitMQ. Who stops it starts it again; isolate by a fresh `namespace`."""
    with servers.rabbitmq_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a private PostgreSQL, for all tests of this process."""
    with servers.postgresql() as url:
        yield url


@pytest.fixture
def postgresql(postgresql_server: str) -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    with servers.database(postgresql_server) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest) -> str | None:
    """The URL of an empty ledger, on both databases in turn; None is SQLite in the data directory."""
    return None if request.param == "sqlite" else request.getfixturevalue("postgresql")


class Pipeline:
    """The stages of one installation in this process, without processes or threads: call them one by one."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        migrate(settings)
        self.app = make_celery(settings)
        self.ctx = Context.open(settings, self.app)
        self.ctx.inbox.ensure()

    def append(self, *bodies: bytes, source: str = "chalk", receipts: Sequence[str] = ()) -> list[str]:
        """Put callbacks into the inbox as the receiver would; their receipt ids."""
        provider = self.settings.sources[source].provider
        ids = list(receipts) or [new_id() for _ in bodies]
        entries = [
            encode(
                Callback(
                    receipt=receipt,
                    source=source,
                    body=body,
                    received_at=utc_now(),
                    remote_address="127.0.0.1",
                    verified_by="path_token",
                ),
                provider,
            )
            for receipt, body in zip(ids, bodies, strict=True)
        ]
        assert self.ctx.inbox.append(entries) == [None] * len(entries)
        return ids

    def ingest(self) -> None:
        while run_once(self.ctx):
            pass

    def deliverer(self, handler: str) -> Deliverer:
        return Deliverer(self.ctx, self.ctx.handlers[handler].make())

    def deliver(self, *handlers: str) -> None:
        for handler in handlers or tuple(self.settings.handlers):
            deliverer = self.deliverer(handler)
            while deliverer.run_once():
                pass

    def rows(self, statement: Any) -> list[Any]:
        with reading(self.ctx.engine) as db:
            return list(db.execute(statement))

    def states(self) -> dict[str, list[str]]:
        """States of the deliveries by handler, sorted."""
        found: dict[str, list[str]] = {}
        for handler, state in self.rows(select(deliveries.c.handler, deliveries.c.state)):
            found.setdefault(handler, []).append(state)
        return {handler: sorted(states) for handler, states in found.items()}


@pytest.fixture
def make_pipeline(valkey: str, ledger_url: str | None, tmp_path: Path) -> Iterator[Callable[..., Pipeline]]:
    """Makes a pipeline with the sources `chalk` and `toolzz`; `handlers` as in coursewire.toml.

    On both databases in turn; a second pipeline of one test shares the first one's PostgreSQL database.
    """
    made: list[Pipeline] = []

    def make(handlers: Mapping[str, Mapping[str, Any]] | None = None, **top: Any) -> Pipeline:
        document = {
            "redis_url": valkey,
            "namespace": f"t{uuid4().hex}",
            "sources": {
                "chalk": {"provider": "digitalchalk", "token": "chalk-token"},
                "toolzz": {"provider": "toolzz", "token": "toolzz-token"},
            },
            "handlers": {"audit": {}} if handlers is None else handlers,
            **({} if ledger_url is None else {"database_url": ledger_url}),
            **top,
        }
        made.append(Pipeline(build_settings(document, data_dir=tmp_path / f"data{len(made)}")))
        return made[-1]

    yield make
    for pipeline in made:
        pipeline.ctx.engine.dispose()
        pipeline.ctx.inbox.redis.close()
        pipeline.app.close()
