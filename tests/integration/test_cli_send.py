from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from click.testing import CliRunner

from console.cli import main
from schemas import samples

BODY = orjson.dumps(samples.body("digitalchalk", "offering_completed"))


@pytest.fixture(scope="module")
def data_dir(run_receiver: Callable[..., Any], valkey: str) -> Path:
    """Of a receiver that runs, with a source for each way of proof."""
    running = run_receiver(
        f"""
        redis_url = "{valkey}"
        namespace = "t{uuid4().hex}"
        max_body_bytes = 2048
        [sources.path]
        provider = "digitalchalk"
        token = "with space & +ç"
        [sources.header]
        provider = "digitalchalk"
        header = "X-Hook-Secret"
        secret = ["newer", "older"]
        [sources.basic]
        provider = "toolzz"
        username = "toolzz"
        password = "pass:wörd"
        """
    )
    folder: Path = running.log_path.parent
    (folder / "run").mkdir()
    (folder / "run" / "url").write_text(f"http://127.0.0.1:{running.port}")
    return folder


@pytest.fixture
def body_file(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "body.json"
    path.write_bytes(BODY)
    return str(path)


def send(data_dir: Path, *words: str, stdin: bytes | None = None) -> Any:
    return CliRunner().invoke(main, ["send", *words, "--data-dir", str(data_dir)], input=stdin)


@pytest.mark.usefixtures("restored_logs")
@pytest.mark.parametrize("source", ["path", "header", "basic"])
def test_a_file_is_posted_as_the_lms_would(data_dir: Path, body_file: str, source: str) -> None:
    """With the source's own proof; the receipt is printed."""
    sent = send(data_dir, source, body_file, "--json")
    assert sent.exit_code == 0
    shown = orjson.loads(sent.stdout)
    assert (shown["status"], len(shown["receipt"])) == (200, 36)
    printed = send(data_dir, source, "-", "--method", "PUT", stdin=BODY)
    assert printed.exit_code == 0
    assert printed.stdout.startswith("200, receipt ")


@pytest.mark.usefixtures("restored_logs")
def test_what_is_refused_is_bad(data_dir: Path, tmp_path: Path) -> None:
    """Exit code 1, with the receiver's status and code."""
    (tmp_path / "large").write_bytes(b"x" * 4096)
    (tmp_path / "empty").touch()
    large = send(data_dir, "path", str(tmp_path / "large"), "--json")
    assert large.exit_code == 1
    shown = orjson.loads(large.stdout)
    assert (shown["status"], shown["receipt"], shown["code"]) == (413, None, "too_large")
    empty = send(data_dir, "path", str(tmp_path / "empty"))
    assert empty.exit_code == 1
    assert empty.stdout.startswith("400, refused, empty_body: ")


@pytest.mark.usefixtures("restored_logs")
def test_who_does_not_answer_is_unreachable(data_dir: Path, body_file: str) -> None:
    """Exit code 4; the message has neither token nor path."""
    sent = send(data_dir, "path", body_file, "--url", "http://127.0.0.1:1")
    assert sent.exit_code == 4
    assert sent.stderr == (
        "error: server_unreachable: http://127.0.0.1:1 does not answer: ConnectionRefusedError\n"
    )
    assert send(data_dir, "path", body_file, "--url", "nonsense").exit_code == 4


@pytest.mark.usefixtures("restored_logs")
def test_a_source_that_is_not_configured_is_not_found(data_dir: Path, body_file: str) -> None:
    """Exit code 3."""
    sent = send(data_dir, "nobody", body_file)
    assert sent.exit_code == 3
    assert "configured: basic, header, path" in sent.stderr
