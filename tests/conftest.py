"""Fixtures shared by all tests."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from resources.demo import render_catalogue

PROJECT = Path(__file__).parents[1]
SHARED_MEDIA = Path(__file__).parents[2] / "shared" / "media"


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real films and odd files beside the checkout; tests that need it are skipped elsewhere."""
    if not SHARED_MEDIA.is_dir():
        pytest.skip("the folder of real films (../shared/media) is not beside this checkout")
    return SHARED_MEDIA


@pytest.fixture(scope="session")
def small_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A landing zone of six short rendered titles with labels, its truth in truth/<id>.json. Look, but do not touch.

    In their order: srt; no audio; no subtitles; vtt; two episodes of one series with ass and ttml. The files are an
    hour old, so that nobody takes them for still being copied.
    """
    folder = render_catalogue(tmp_path_factory.mktemp("catalogue"), titles=6, shots_per_title=8).folder
    for path in folder.rglob("*"):
        times = path.stat()
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns - 3_600_000_000_000))
    return folder


@dataclass(frozen=True)
class Postgres:
    """A server of this test session."""

    port: int
    password: str

    def url(self, database: str) -> str:
        return f"postgresql+psycopg2://dagster:{self.password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"d{uuid.uuid4().hex}"
        engine = sa.create_engine(self.url("dagster"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self.url(name)


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A real server of Debian's package, which ends with the block."""
    # Not below pytest's own folder, which Postgres' user may not enter when root runs the tests.
    with tempfile.TemporaryDirectory(prefix="mediafm-postgres-") as folder:
        os.chmod(folder, 0o755)
        found = Postgres(free_port(), uuid.uuid4().hex)
        command = [PROJECT / "deploy" / "postgres.sh", f"{folder}/data", str(found.port)]
        environment = {**os.environ, "MEDIAFM_POSTGRES_PASSWORD": found.password}
        with open(f"{folder}/log", "w+") as log:
            server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            try:
                while "ready to accept connections" not in Path(log.name).read_text():
                    assert server.poll() is None, Path(log.name).read_text()
                    time.sleep(0.1)
                yield found
            finally:
                server.send_signal(signal.SIGQUIT)  # Postgres' immediate shutdown, its children with it
                server.wait()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real Postgres server; without Debian's package, or Dagster's, tests that need one are skipped."""
    pytest.importorskip("dagster_postgres", reason="dagster-postgres is not installed: make install")
    if not any(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        pytest.skip("Postgres is not installed: apt-get install postgresql")
    with postgres_server() as found:
        yield found


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def s3_environment(port: int) -> dict[str, str]:
    """Variables that lead to a local S3 server."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
    }


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty S3 bucket `films` on a local server, to which the environment's credentials lead; its boto3 client.

    The server is a process of its own: delta-rs waits for it without letting go of the interpreter.
    """
    import boto3

    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for key, value in s3_environment(port).items():
        monkeypatch.setenv(key, value)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert server.poll() is None, "the S3 server did not start"
            time.sleep(0.1)
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="films")
        yield s3
    finally:
        server.kill()
        server.wait()
