"""The deployment of deploy/local.sh as a thing to try: started, given films, asked what became of them, and harmed."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
PARTS = ("postgres", "s3", "code", "daemon", "webserver")


class Deployment:
    """What runs in `folder`. first_port: the first of five in a row."""

    def __init__(self, folder: Path, first_port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{first_port}"
        self.read_only_url = f"http://127.0.0.1:{first_port + 1}"
        self.s3_url = f"http://127.0.0.1:{first_port + 3}"
        self.postgres_port = first_port + 4

    @property
    def environment(self) -> dict[str, str]:
        """What leads a client of the landing zone and the lake to them."""
        return {
            "AWS_ENDPOINT_URL": self.s3_url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "MEDIAFM_LANDING": "s3://mediafm/landing",
            "MEDIAFM_LAKE": "s3://mediafm/lake",
        }

    def drop(self, title_id: str, source: Path) -> None:
        """Upload the files of a title folder, title.json last, as a supplier does who knows nothing of this project."""
        import boto3

        s3 = boto3.client("s3", endpoint_url=self.s3_url, aws_access_key_id="local", aws_secret_access_key="local")
        for file in sorted(source.iterdir(), key=lambda file: file.name == "title.json"):
            s3.upload_file(str(file), "mediafm", f"landing/titles/{title_id}/{file.name}")

    def ask(self, query: str, url: str | None = None) -> Any:
        """The answer of the webserver's GraphQL."""
        request = urllib.request.Request(
            f"{url or self.url}/graphql",
            data=json.dumps({"query": query}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.load(response)

    def runs(self) -> list[dict[str, Any]]:
        query = (
            "{ runsOrError { ... on Runs { results { runId status tags { key value } assetSelection { path } } } } }"
        )
        return list(self.ask(query)["data"]["runsOrError"]["results"])

    def titles_in(self, table: str) -> set[str]:
        """The titles that the table has, read from the bucket in a process of its own: delta-rs keeps the
        environment's S3 server for good."""
        program = (
            "import json, sys; from resources.lake import DeltaLake;"
            "print(json.dumps([key[-1] for key in DeltaLake(uri=sys.argv[1]).data_versions(sys.argv[2])]))"
        )
        command = [sys.executable, "-c", program, self.environment["MEDIAFM_LAKE"], table]
        environment = {**os.environ, **self.environment, "PYTHONPATH": str(PROJECT)}
        printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=PROJECT)
        return set(json.loads(printed.stdout))

    def pid(self, part: str) -> int:
        return int((self.folder / f"{part}.pid").read_text())


@contextmanager
def deployed(folder: Path, first_port: int, environment: Mapping[str, str]) -> Iterator[Deployment]:
    """A deployment that answers, ended after the `with` block. Postgres' user must be able to reach the folder."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MEDIAFM_", "DAGSTER_"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (folder / "local.log").open("w") as log:
        process = subprocess.Popen(
            [PROJECT / "deploy" / "local.sh", folder],
            env={**clean, **environment, "PATH": path, "PYTHONPATH": str(PROJECT), "MEDIAFM_PORTS": str(first_port)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_for("the deployment's start", lambda: "Land a title" in said(process, folder / "local.log"), 120)
            yield Deployment(folder, first_port)
        finally:
            process.terminate()
            process.wait(timeout=120)  # it gives each part ten seconds, and then kills it


def said(process: subprocess.Popen[bytes], log: Path) -> str:
    text = log.read_text()
    if process.poll() is not None:
        raise AssertionError(f"deploy/local.sh ended: {text}")
    return text


def wait_for(what: str, ready: Callable[[], Any], patience_s: float) -> Any:
    """What `ready` gives as soon as it is true; it may fail to reach a server meanwhile."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            found = ready()
        except OSError:
            found = None
        if found:
            return found
        time.sleep(1)
    raise AssertionError(f"{what} did not happen within {patience_s} s")
