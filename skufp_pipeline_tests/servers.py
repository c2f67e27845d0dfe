"""Real servers on loopback for the tests: PostgreSQL, S3, and the nodes of a Ray cluster."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from .graphs import REPOSITORY, environment
from .test_webserver import free_port, wait_for

PRODUCTION = REPOSITORY / "deploy" / "production" / "dagster.yaml"
BUCKET = "skufp"
PATIENCE = 1200.0  # seconds


def wait_until(true: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, f"not within {patience} s: {what}"
        time.sleep(0.1)


def postgres_tool(name: str) -> str | None:
    """Path of a program of PostgreSQL's; Debian keeps them off the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(debian[-1]) if debian else None)


@contextmanager
def postgres() -> Iterator[dict[str, str]]:
    """A PostgreSQL server of one's own; yields the variables that deploy/production reads.

    It refuses to run as root, so that root runs it as Debian's user `postgres`.
    """
    initdb, server = postgres_tool("initdb"), postgres_tool("postgres")
    assert initdb is not None
    assert server is not None
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="skufp-pg-"))
    (folder / "password").write_text("secret\n")
    for path in (folder, folder / "password"):
        shutil.chown(path, user)
    made = [initdb, "-D", folder / "data", "-U", "dagster", "-A", "scram-sha-256"]
    subprocess.run(
        [*made, "--pwfile", folder / "password"], user=user, cwd=folder, check=True, capture_output=True
    )
    port = free_port()
    options = ["-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [server, "-D", folder / "data", *options], user=user, cwd=folder, stdout=log, stderr=log
        )
    try:
        variables = {
            "DAGSTER_PG_HOST": "127.0.0.1",
            "DAGSTER_PG_PORT": str(port),
            "DAGSTER_PG_USERNAME": "dagster",
            "DAGSTER_PG_PASSWORD": "secret",
            "DAGSTER_PG_DB": "postgres",
        }
        _wait_for_postgres(variables, process, folder / "log")
        yield variables
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        shutil.rmtree(folder)


def _wait_for_postgres(variables: dict[str, str], process: "subprocess.Popen[bytes]", log: Path) -> None:
    import psycopg2

    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, log.read_text()
        try:
            psycopg2.connect(
                host=variables["DAGSTER_PG_HOST"],
                port=variables["DAGSTER_PG_PORT"],
                user=variables["DAGSTER_PG_USERNAME"],
                password=variables["DAGSTER_PG_PASSWORD"],
                dbname=variables["DAGSTER_PG_DB"],
            ).close()
            return
        except psycopg2.OperationalError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)


def production_home(folder: Path) -> Path:
    """A DAGSTER_HOME with the production settings, as they lie in deploy/."""
    home = folder / "home"
    home.mkdir()
    shutil.copyfile(PRODUCTION, home / "dagster.yaml")
    assert "postgres" in yaml.safe_load(PRODUCTION.read_text())["storage"]
    return home


@contextmanager
def s3(folder: Path) -> Iterator[dict[str, str]]:
    """A server that speaks S3, with one empty bucket; yields the variables its clients need."""
    import boto3

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (folder / "s3.log").open("w") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(f"{url}/moto-api/", process, folder / "s3.log")
        variables = {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": url,
        }
        boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        ).create_bucket(Bucket=BUCKET)
        yield variables
    finally:
        process.terminate()
        process.wait(timeout=60)


@dataclass(frozen=True)
class Node:
    """A running node of a Ray cluster."""

    process: "subprocess.Popen[bytes]"

    def steps(self) -> list[psutil.Process]:
        """The processes of Dagster's steps on this node."""
        found = []
        for member in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "execute_step" in member.cmdline():
                    found.append(member)
        return found

    def kill(self) -> None:
        """What a machine that loses its power does: every process of the node is gone at once."""
        family = [psutil.Process(self.process.pid)]
        family += family[0].children(recursive=True)
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        self.process.wait(timeout=60)


@contextmanager
def ray_cluster(folder: Path, variables: dict[str, str]) -> Iterator[tuple[str, list[Node]]]:
    """Two nodes with one core each and no folder in common; yields the dashboard's address, and both.

    Args:
        variables: what the steps on a node find in their environment.
    """
    temporary = Path(tempfile.mkdtemp(prefix="ray-"))  # short: sockets lie below it
    search_path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    port, dashboard = free_port(), free_port()
    head = [
        "--head",
        "--node-ip-address",
        "127.0.0.1",
        "--port",
        str(port),
        "--dashboard-port",
        str(dashboard),
        "--temp-dir",
        str(temporary),
    ]
    nodes: list[Node] = []
    try:
        for number, words in enumerate([head, ["--address", f"127.0.0.1:{port}"]]):
            own = folder / f"node_{number}"
            own.mkdir()
            resources = ["--num-cpus", "1", "--memory", str(8 << 30), "--object-store-memory", str(80 << 20)]
            agent = ["--dashboard-agent-listen-port", str(free_port())]
            start = ["start", *words, *resources, *agent, "--disable-usage-stats", "--block"]
            with (own / "log").open("w") as log:
                process = subprocess.Popen(
                    [Path(sys.executable).with_name("ray"), *start],
                    env=environment(**variables, PATH=search_path, TMPDIR=str(own)),
                    cwd=own,
                    stdout=log,
                    stderr=log,
                )
            nodes.append(Node(process))
            wait_for(f"http://127.0.0.1:{dashboard}/api/version", process, own / "log")
        yield f"http://127.0.0.1:{dashboard}", nodes
    finally:
        for node in nodes:
            if node.process.poll() is None:
                node.kill()
        shutil.rmtree(temporary, ignore_errors=True)
