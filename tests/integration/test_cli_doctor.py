from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from click.testing import CliRunner

from console import findings_local
from console.cli import main
from console.findings_local import filesystem
from coursewire.inbox import encode
from coursewire.ledger.inbox_generations import note_generation
from coursewire.ledger.tables import utc_now
from coursewire.plugins import Callback
from coursewire.spool import Spool


def verdicts(operator: Any, code: int = 1) -> dict[str, tuple[str, str]]:
    """By what it is about; of several the last."""
    return {row["about"]: (row["verdict"], row["detail"]) for row in operator.json("doctor", code=code)}


def test_a_stopped_installation_lacks_its_receiver_only(make_operator: Callable[..., Any]) -> None:
    """Everything else is good; exit code 1 since nothing takes callbacks."""
    found = verdicts(make_operator())
    bad = {about for about, (verdict, _) in found.items() if verdict == "bad"}
    assert bad - {"disk"} == {"receiver"}
    assert {about for about, (verdict, _) in found.items() if verdict == "good"} >= {
        "configuration", "sources", "handlers", "public_url", "file modes", "inbox", "durability", "eviction",
        "backlog", "spool", "broker", "ledger", "installation key", "dead letters", "quarantine",
    }  # fmt: skip


def test_a_running_installation_is_good(
    make_operator: Callable[..., Any], run_receiver: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 0, in a table for people."""
    monkeypatch.setattr(findings_local, "IN_MEMORY", set())  # wherever the tests' directory lies
    operator = make_operator()
    running = run_receiver(operator.config.read_text())
    operator.config.write_text(
        f"public_url = 'http://127.0.0.1:{running.port}'\n{operator.config.read_text()}"
    )
    printed = operator.table("doctor")
    assert "receiver          good     is ready at http://127.0.0.1:" in printed


def test_what_others_may_read_is_bad(make_operator: Callable[..., Any]) -> None:
    """The configuration holds secrets. In a directory that nobody else enters a file's mode is harmless."""
    operator = make_operator()
    operator.config.chmod(0o644)
    assert verdicts(operator)["file modes"][0] == "good"
    operator.data_dir.chmod(0o755)
    verdict, detail = verdicts(operator)["file modes"]
    assert verdict == "bad"
    assert "coursewire.toml (644)" in detail
    assert "(755)" in detail


def test_a_server_that_may_lose_callbacks_is_bad(make_operator: Callable[..., Any]) -> None:
    """Durability less than always, and eviction."""
    operator = make_operator()
    redis = operator.pipeline.ctx.inbox.redis
    redis.config_set("appendfsync", "everysec")
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        found = verdicts(operator)
    finally:
        redis.config_set("appendfsync", "always")
        redis.config_set("maxmemory-policy", "noeviction")
    assert found["durability"] == ("bad", "everysec: a crash loses acknowledged callbacks")
    assert found["eviction"] == ("bad", "allkeys-lru: a full server would drop the inbox")


def test_servers_that_do_not_answer_are_bad(make_operator: Callable[..., Any], tmp_path: Path) -> None:
    """All that can be looked at is looked at all the same."""
    operator = make_operator()
    text = operator.config.read_text()
    away = f"unix://{tmp_path}/nobody.sock"
    text = text.replace(operator.pipeline.settings.redis_url, away)
    operator.config.write_text(f"broker_url = 'redis://127.0.0.1:1/0'\n{text}")
    found = verdicts(operator)
    assert found["inbox"] == ("bad", "the server of the inbox does not answer")
    assert found["broker"][0] == "bad"
    assert found["ledger"][0] == "good"


def test_what_waits_for_a_person_is_a_warning(make_operator: Callable[..., Any]) -> None:
    """Quarantine, paused handlers, a spool that is not empty, a rotation that is not finished."""
    operator = make_operator()
    operator.pipeline.append(b"{")
    operator.pipeline.ingest()
    operator.run("handlers", "pause", "audit")
    operator.run("sources", "rotate", "chalk")
    spool = Spool(operator.pipeline.settings.spool_path, 1 << 20)
    spool.add([encode(Callback("r", "chalk", b"{}", utc_now()), "digitalchalk")])
    spool.close()
    found = verdicts(operator)
    assert found["quarantine"] == ("warning", "1 item; see `coursewire quarantine`")
    assert found["handlers"] == ("warning", "audit is paused; waiting deliveries: 0")
    assert found["spool"][0] == found["secrets"][0] == "warning"


def test_handlers_and_configuration_are_compared(make_operator: Callable[..., Any]) -> None:
    """One that is only configured gets nothing; one that is only in the ledger is perhaps gone."""
    operator = make_operator()
    text = operator.config.read_text()
    operator.config.write_text(text.replace("[handlers.audit]", "[handlers.progress]"))
    rows = [row for row in operator.json("doctor", code=1) if row["about"] == "handlers"]
    assert [(row["verdict"], row["detail"].split()[0]) for row in rows] == [
        ("good", "progress"),
        ("warning", "audit"),
        ("bad", "progress"),
    ]


def test_another_installations_inbox_is_bad(make_operator: Callable[..., Any]) -> None:
    """Two installations that share a server and a namespace would take each other's callbacks."""
    operator = make_operator()
    pipeline = operator.pipeline
    with pipeline.ctx.engine.begin() as db:
        note_generation(db, pipeline.ctx.inbox.ensure())
    assert verdicts(operator)["namespace"][0] == "good"
    other = uuid4().hex
    pipeline.ctx.inbox.redis.set(f"{pipeline.settings.namespace}:inbox:generation", other)
    assert verdicts(operator)["namespace"][0] == "bad"


def test_a_ledger_of_another_key_is_bad(make_operator: Callable[..., Any]) -> None:
    """Every callback that is sent again would be a new event."""
    operator = make_operator()
    operator.config.write_text(f"installation_key = 'another'\n{operator.config.read_text()}")
    assert verdicts(operator)["installation key"][0] == "bad"


def test_a_plug_in_that_cannot_load_is_bad(make_operator: Callable[..., Any]) -> None:
    """Named as the stack would at its start."""
    operator = make_operator()
    operator.config.write_text(f"{operator.config.read_text()}\n[handlers.x]\nuses = 'nothing'\n")
    verdict, detail = verdicts(operator)["plug-ins"]
    assert (verdict, detail.partition(":")[0]) == ("bad", "invalid_configuration")


def test_an_installation_that_is_not_there_yet(tmp_path: Path) -> None:
    """Nothing is made by looking; a plain http address on a network is a warning."""
    folder = tmp_path / "none"
    environment = {"COURSEWIRE_PUBLIC_URL": "http://hooks.example.org"}
    result = CliRunner(env=environment).invoke(main, ["doctor", "--json", "--data-dir", str(folder)])
    assert result.exit_code == 1
    found = {row["about"]: row["verdict"] for row in orjson.loads(result.stdout)}
    assert found["configuration"] == found["data directory"] == found["public_url"] == "warning"
    assert found["inbox"] == found["ledger"] == "bad"
    assert not folder.exists()


def test_the_kind_of_file_system_is_told() -> None:
    """That of the innermost mount."""
    assert filesystem(Path("/proc/self")) == "proc"
