"""A handler that somebody else ships as a wheel, which imports only `coursewire`."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import sysconfig
import threading
import urllib.request
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "tests" / "plugin"
BODY = ROOT / "schemas" / "samples" / "digitalchalk" / "offering_completed.json"
TOKEN = "a-token-of-this-test"
CONFIG = f"""
[sources.chalk]
provider = "digitalchalk"
token = "{TOKEN}"

[handlers.counts]
uses = "counts"
by_source = false
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a scratch environment: Coursewire as it is installed here, and the wheel."""
    folder = tmp_path_factory.mktemp("foreign")
    wheel = built_wheel(folder / "dist")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    scratch = folder / "env" / "bin" / "python"
    paths = {"base": str(folder / "env"), "platbase": str(folder / "env")}
    site_packages = Path(sysconfig.get_path("purelib", "venv", paths))
    # `addsitedir` rather than a bare path: the packages here are installed editable, by .pth files.
    (site_packages / "coursewire.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    )
    run(sys.executable, "-m", "pip", "--python", scratch, "install", "--no-deps", "--no-index", wheel)
    return scratch


def built_wheel(folder: Path) -> Path:
    # Without the backend in this environment the build fetches it into one of its own.
    isolation = ["--no-isolation"] if find_spec("hatchling") else []
    run(sys.executable, "-m", "build", "--wheel", *isolation, "--outdir", folder, PLUGIN)
    (wheel,) = folder.glob("*.whl")
    return wheel


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_plug_in_imports_only_the_public_names() -> None:
    """Of ours it imports `coursewire` itself and no module below it."""
    tree = ast.parse((PLUGIN / "coursewire_example" / "handler.py").read_text())
    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    ours = ("coursewire", "schemas", "receiver", "workers", "console")
    assert {name for name in imported if name.split(".")[0] in ours} == {"coursewire"}


IN_THE_SCRATCH_ENVIRONMENT = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from sqlalchemy import text
from coursewire import Event, Handler
from coursewire.event import new_id
from coursewire.ledger.engine import open_ledger
from coursewire.plugins import HANDLERS, load
from coursewire.settings import build_settings

counts = load(HANDLERS, "counts", Handler)
handler = counts("counts", counts.Options().load({"by_source": False}))
ledger = open_ledger(build_settings({}, data_dir=Path(sys.argv[1])))
counts.metadata.create_all(ledger)
now = datetime.now(UTC)
events = [
    Event(id=new_id(), source=source, provider="p", type=type, wire_type=type, key=type,
          occurred_at=now, received_at=now)
    for source in ("one", "two")
    for type in ("course.completed", "learner.created", "certificate.awarded")
]
with ledger.begin() as db:
    outcomes = [str(outcome) for outcome in handler.record_batch(events, db)]
with ledger.begin() as db:
    found = db.execute(text("select source, type, events from counts_by_type order by type"))
    rows = [list(row) for row in found]
origin = sys.modules[counts.__module__].__file__
print(json.dumps({"origin": origin, "kind": counts.kind, "outcomes": outcomes, "rows": rows}))
"""


def test_the_plug_in_is_found_and_runs(python: Path, tmp_path: Path) -> None:
    """Installed as a wheel it is found by its entry point, takes its option, and writes its own table."""
    told = json.loads(run(python, "-c", IN_THE_SCRATCH_ENVIRONMENT, tmp_path))
    assert Path(told["origin"]).is_relative_to(python.parents[1])
    assert told["kind"] == "record"
    assert told["outcomes"] == ["[]", "[]", "told by another event already"] * 2
    assert told["rows"] == [["*", "course.completed", 2], ["*", "learner.created", 2]]


def test_the_plug_in_works_in_a_running_stack(
    python: Path, tmp_path: Path, until: Callable[..., None]
) -> None:
    """Configured by its entry point's name, it gets what the LMS posts, and its delivery ends as done."""
    (tmp_path / "coursewire.toml").write_text(CONFIG)
    with running_stack(python, tmp_path) as hook:
        until(lambda: answers(hook), what="an answer of the receiver")
        request = urllib.request.Request(hook, BODY.read_bytes(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert json.load(answer)["receipt"]

        def deliveries() -> list[dict[str, str]]:
            return [event["deliveries"] for event in coursewire(python, tmp_path, "events")]

        until(lambda: deliveries() == [{"counts": "done"}], seconds=30, what="the delivery to `counts`")


def coursewire(python: Path, data_dir: Path, command: str) -> Any:
    # Not by the console script, which names the interpreter of the environment that it was installed into.
    return json.loads(run(python, "-m", "console", command, "--json", "--data-dir", data_dir))


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def running_stack(python: Path, data_dir: Path) -> Iterator[str]:
    """`coursewire up` in the scratch environment; the callback URL of its source, as it prints it."""
    command = [python, "-m", "console", "up", "--data-dir", data_dir, "--port", "0"]
    lines: list[str] = []
    found = threading.Event()

    def read() -> None:
        for line in stack.stdout or ():
            lines.append(line)
            if TOKEN in line:
                found.set()
        found.set()

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=data_dir
    ) as stack:
        threading.Thread(target=read, daemon=True).start()
        try:
            found.wait(30)
            match = re.search(rf"http://\S+/hooks/chalk/{TOKEN}", "".join(lines))
            assert match, "".join(lines)
            yield match[0]
        finally:
            stack.terminate()
            try:
                stack.wait(20)
            except subprocess.TimeoutExpired:
                stack.kill()
                raise
