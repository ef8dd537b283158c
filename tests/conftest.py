"""Fixtures shared by all tests."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resources.demo import render_catalogue

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


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty S3 bucket `films` on a local server, to which the environment's credentials lead; its boto3 client.

    The server is a process of its own: delta-rs waits for it without letting go of the interpreter.
    """
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for key, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
    }.items():
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
