"""Real servers for tests, each a context manager: Postgres, an S3 store (moto), Ray with several nodes.

    with s3() as store, postgres() as database, ray_nodes(2, folder) as cluster:
        environment = store.environment | {"RAY_ADDRESS": cluster.address, "PHYSIQUE_REVIEWS": database.url("reviews")}

`refuse` and `accept` of the store and `restart` of the database are there for faults; contents outlive them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tasks.engines import free_port

KEYS = {"AWS_ACCESS_KEY_ID": "physique", "AWS_SECRET_ACCESS_KEY": "secret-key-of-tests"}


class Missing(RuntimeError):
    """A server is not installed here; one line that says what would."""


def until(what: Callable[[], object], limit: float, about: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + limit
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(f"{about}: not within {limit:.0f} s")
        time.sleep(0.1)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Postgres:
    """A cluster of databases of its own, and its only user, who may do all.

    environment: what clients need beside the address, the password if there is one.
    """

    port: int
    control: Sequence[str]
    start_words: Sequence[str]
    user: str = "reviews"
    password: str = ""

    @property
    def environment(self) -> dict[str, str]:
        return {"PGPASSWORD": self.password} if self.password else {}

    def url(self, database: str = "", driver: str = "") -> str:
        """Address of a database, which is made if it is not there."""
        import psycopg

        base = f"postgresql{f'+{driver}' if driver else ''}://{self.user}@127.0.0.1:{self.port}"
        if not database:
            return base
        with psycopg.connect(f"{self.url()}/postgres", autocommit=True, password=self.password or None) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone():
                connection.execute(f'CREATE DATABASE "{database}"')
        return f"{base}/{database}"

    def start(self) -> None:
        self._do([*self.control, *self.start_words])

    def stop(self, how: str = "fast") -> None:
        """how: `immediate` is a crash, `fast` what an administrator does; connections break either way."""
        self._do([*self.control, "-m", how, "stop"])

    def restart(self, how: str = "fast") -> None:
        self.stop(how)
        self.start()

    def _do(self, words: Sequence[str]) -> None:
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd="/")


@contextmanager
def postgres(user: str = "reviews", password: str = "") -> Iterator[Postgres]:
    """A Postgres, as Debian packages it; without a password it trusts whoever comes from this machine. Raises Missing."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        raise Missing("no Postgres here (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="physique-postgres-"))  # pytest's own folders are closed to other users
    who: list[str] = []
    if os.geteuid() == 0:  # initdb refuses root
        if not shutil.which("runuser"):
            raise Missing("Postgres refuses to run as root, and there is no runuser to be somebody else")
        who = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres", "postgres")
    data, port = folder / "data", free_port()
    make = [*who, f"{found[-1]}/initdb", "-D", str(data), "-U", user, "--no-sync", "-E", "UTF8"]
    if password:
        (folder / "password").write_text(password)
        (folder / "password").chmod(0o644)
        make += ["-A", "scram-sha-256", "--pwfile", str(folder / "password")]
    else:
        make += ["-A", "trust"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd="/")
    (folder / "password").unlink(missing_ok=True)
    control = [*who, f"{found[-1]}/pg_ctl", "-D", str(data), "-w"]
    options = f"-p {port} -k {data} -c listen_addresses=127.0.0.1 -c max_connections=200 -c fsync=off"
    server = Postgres(port, control, ["-l", str(data / "log"), "-o", options, "start"], user, password)
    server.start()
    try:
        yield server
    finally:
        with suppress(subprocess.CalledProcessError):  # a test may have stopped it
            server.stop("immediate")
        shutil.rmtree(folder)


@dataclass
class S3:
    """environment: what every client of it (boto3, pyarrow, DVC, MLflow) reads."""

    url: str
    port: int
    process: subprocess.Popen[bytes]
    environment: dict[str, str] = field(default_factory=dict)

    def bucket(self, name: str) -> str:
        """Make a bucket; its address."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Names of all objects."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [each["Key"] for page in pages for each in page.get("Contents", [])]

    def client(self):
        import boto3

        key, secret = KEYS.values()
        return boto3.client(
            "s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret
        )

    def refuse(self) -> None:
        """Nobody listens any more; what is stored stays."""
        self.process.send_signal(signal.SIGUSR1)
        until(lambda: not listens(self.port), 60, "the S3 store still listens")

    def accept(self) -> None:
        self.process.send_signal(signal.SIGUSR2)
        until(lambda: listens(self.port), 60, "the S3 store does not listen again")


@contextmanager
def s3() -> Iterator[S3]:
    """An S3 store in memory."""
    port = free_port()
    words = [sys.executable, "-m", "tests.cluster", str(port)]
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(words, cwd=root, stdout=log, stderr=log, start_new_session=True)
        url = f"http://127.0.0.1:{port}"
        environment = KEYS | {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1", "AWS_REGION": "us-east-1"}
        try:
            until(lambda: process.poll() is not None or listens(port), 60, "the S3 store")
            if process.poll() is not None:
                log.seek(0)
                raise RuntimeError(f"the S3 store did not start: {log.read().decode(errors='replace')[-500:]}")
            yield S3(url, port, process, environment)
        finally:
            process.kill()
            process.wait(10)


def serve_s3(port: int) -> None:
    """Body of the store's process: SIGUSR1 closes the door, SIGUSR2 opens it."""
    from threading import Thread

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = DomainDispatcherApplication(create_backend_app)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
    while True:
        server = make_server("127.0.0.1", port, application, threaded=True)
        serving = Thread(target=server.serve_forever, daemon=True)
        serving.start()
        signal.sigwait({signal.SIGUSR1})
        server.shutdown()
        server.server_close()
        signal.sigwait({signal.SIGUSR2})


@dataclass
class RayNodes:
    """address: of the head, as RAY_ADDRESS takes it. nodes: the process that leads each, the head first.

    environment: what drivers need beside the address. temporary: where Ray's own logs are.
    """

    address: str
    nodes: list[subprocess.Popen[bytes]]
    environment: dict[str, str]
    temporary: Path = Path("/tmp/ray")
    dashboard: str = ""

    def alive(self) -> int:
        """Nodes that the head sees."""
        code = "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR', log_to_driver=False); "
        code += "print('nodes', sum(n['Alive'] for n in ray.nodes()))"
        words = [sys.executable, "-c", code, self.address]
        done = subprocess.run(words, env=os.environ | self.environment, capture_output=True, text=True, timeout=120)
        said = [line for line in done.stdout.splitlines() if line.startswith("nodes")]
        return int(said[-1].split()[1]) if said else 0


@contextmanager
def ray_nodes(
    count: int, folder: Path, *, cpus: float = 1, environment: dict[str, str] | None = None, token: str = ""
) -> Iterator[RayNodes]:
    """`ray start` of a head and others, each with an address of the loopback and a working folder of its own in `folder`.

    environment: what the nodes get on top of this process's, and with them all that runs there. token: who does not have it
    is refused (Ray's RAY_AUTH_TOKEN).
    """
    temporary = Path(tempfile.mkdtemp(prefix="ray-"))  # short: the path of a socket may have 107 characters
    more = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    more |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    address = f"127.0.0.2:{free_port()}"  # 127.0.0.1 Ray takes for this machine's address in the network
    dashboard = free_port()
    cluster = RayNodes(address, [], more, temporary, f"http://127.0.0.1:{dashboard}")
    try:
        for number in range(count):
            own = folder / f"node-{number}"
            own.mkdir(parents=True, exist_ok=True)
            words = {"node-ip-address": f"127.0.0.{number + 2}", "num-cpus": cpus, "object-store-memory": 256 * 2**20}
            words |= {"min-worker-port": 0, "max-worker-port": 0, "dashboard-agent-listen-port": free_port()}
            where = ["--head", f"--port={address.split(':')[1]}", f"--temp-dir={temporary}", "--include-dashboard=true",
                     f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}"]  # fmt: skip
            where = where if number == 0 else [f"--address={address}"]
            command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *where]
            command += [f"--{name}={value}" for name, value in words.items()]
            cluster.nodes.append(_started(command, own, os.environ | (environment or {}) | more))
        yield cluster
    finally:
        for node in reversed(cluster.nodes):
            end(node)
        shutil.rmtree(temporary, ignore_errors=True)


def _started(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A node that is up; on a busy machine Ray's own patience with it may end a few times before."""
    log = folder / "ray.log"
    for _ in range(4):
        with log.open("wb") as out:
            node = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out, start_new_session=True)
        until(lambda: node.poll() is not None or b"Ray runtime started" in log.read_bytes(), 240, "Ray")  # noqa: B023
        if node.poll() is None:
            return node
    raise RuntimeError(f"Ray did not start: {log.read_text()[-800:]}")


def end(leader: subprocess.Popen[bytes]) -> None:
    """A process and all that it has started."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        family = [psutil.Process(leader.pid)]
        family += family[0].children(recursive=True)
        leader.terminate()
        for each in psutil.wait_procs(family, 15)[1]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
    leader.wait(10)


if __name__ == "__main__":
    serve_s3(int(sys.argv[1]))
