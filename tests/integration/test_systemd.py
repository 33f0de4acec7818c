"""The units of deploy/systemd, as systemd itself reads them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import servers
from click.testing import CliRunner

from console.cli import main

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
PROGRAM = "/opt/coursewire/.venv/bin/coursewire"
NAMES = sorted(path.name for path in UNITS.iterdir())
# A template is verified as an instance: of a handler whose name has a hyphen.
INSTANCE = "handler.notify-staff"


def analyze(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        servers.missing("systemd-analyze")
    return subprocess.run(["systemd-analyze", *words], cwd=folder, capture_output=True, text=True)


def copied(name: str, folder: Path, program: str) -> str:
    """A copy with a program that is here; systemd complains of one that is not. The name to verify."""
    for other in NAMES:
        text = (UNITS / other).read_text()
        assert text.count(f"ExecStart={PROGRAM} ") == 1
        (folder / other).write_text(text.replace(PROGRAM, program))
    return f"./{name.replace('@', f'@{INSTANCE}')}"


def test_there_is_a_unit_for_up_and_for_each_part():
    assert NAMES == [
        "coursewire-migrate.service",
        "coursewire-receiver.service",
        "coursewire-sweep.service",
        "coursewire-worker@.service",
        "coursewire.service",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_systemd_has_nothing_to_complain_of(name, tmp_path):
    told = analyze(tmp_path, "verify", copied(name, tmp_path, "/bin/true"))
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_is_confined(name, tmp_path):
    """systemd's own measure of what a service may do to its host: 0 is nothing, 10 is all."""
    told = analyze(
        tmp_path, "security", "--offline=true", "--threshold=20", copied(name, tmp_path, "/bin/true")
    )
    assert told.returncode == 0, told.stdout


def test_a_worker_gets_its_queue_as_it_is_written(tmp_path):
    """A dot and a hyphen in the name of an instance are not escaped: systemd names the file it misses."""
    name = copied("coursewire-worker@.service", tmp_path, "/nowhere/%i")
    assert f"/nowhere/{INSTANCE} is not executable" in analyze(tmp_path, "verify", name).stderr
    assert "--queues %i " in (UNITS / "coursewire-worker@.service").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_command_line_knows_what_a_unit_starts(name):
    """Its command, and each of its options."""
    found = re.search(rf"^ExecStart={PROGRAM} (.*)$", (UNITS / name).read_text(), re.M)
    assert found is not None
    command, *words = shlex.split(found[1])
    told = CliRunner().invoke(main, [command, "--help"])
    assert told.exit_code == 0
    assert {word for word in words if word.startswith("--") and word not in told.output} == set()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_in_hand_is_finished_before_the_end(name):
    """Only the main process gets SIGTERM; Celery's pool would break its task off. And all start again."""
    unit = (UNITS / name).read_text()
    if "Type=oneshot" in unit:
        return
    assert "\nKillMode=mixed\n" in unit
    assert "\nRestart=always\n" in unit
    patience = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M)
    assert patience is not None
    assert int(patience[1]) >= (45 if "worker" in name or "sweep" in name else 15)
