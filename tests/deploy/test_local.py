"""deploy/local.sh: the deployment's processes, on this machine, with nobody's hand moved."""

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.deployment import Deployment, deployed, wait_for

PATIENCE_S = 300
"""What is promised after the installs."""

WEIGHTLESS = {
    "MEDIAFM_VIDEO_ENCODER": "descriptors",
    "MEDIAFM_AUDIO_ENCODER": "logmel",
    "MEDIAFM_TEXT_ENCODER": "hashed",
    "MEDIAFM_ENCODER_OVERRIDES": '{"layers": 1, "hidden": 32, "heads": 2, "max_steps": 6, "fixed_steps": 6}',
}


def five_free_ports() -> int:
    for first in range(20_000, 30_000, 5):
        with socket.socket() as one, socket.socket() as two:
            if one.connect_ex(("127.0.0.1", first)) and two.connect_ex(("127.0.0.1", first + 4)):
                return first
    raise AssertionError("no ports are free")


@pytest.fixture
def local() -> Iterator[Deployment]:
    pytest.importorskip("dagster_postgres", reason="dagster-postgres is not installed: pip install '.[deploy]'")
    if not any(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        pytest.skip("Postgres is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="mediafm-local-"))
    folder.chmod(0o755)
    try:
        with deployed(folder, five_free_ports(), {**WEIGHTLESS, "OMP_NUM_THREADS": "1"}) as running:
            yield running
    finally:
        shutil.rmtree(folder)


@pytest.mark.timeout(3 * PATIENCE_S)  # each wait ends by itself, and says what it waited for
def test_a_film_dropped_into_the_bucket_reaches_the_lake_and_viewers_can_only_look(
    local: Deployment, small_catalogue: Path
) -> None:
    import boto3

    title = sorted((small_catalogue / "titles").iterdir())[0]
    local.drop("night-train", title)
    dropped = time.monotonic()
    wait_for("the title's vectors", lambda: "night-train" in local.titles_in("fused_embeddings"), PATIENCE_S)
    print(f"vectors in the lake {time.monotonic() - dropped:.0f} s after title.json")
    runs = wait_for(
        "the end of the title's run",
        lambda: [
            run
            for run in local.runs()
            if {"key": "dagster/partition", "value": "night-train"} in run["tags"]
            and run["status"] in ("SUCCESS", "FAILURE")
        ],
        PATIENCE_S,
    )
    assert [run["status"] for run in runs] == ["SUCCESS"]

    s3 = boto3.client("s3", endpoint_url=local.s3_url, aws_access_key_id="local", aws_secret_access_key="local")
    logs = wait_for(
        "the run's logs in the bucket",
        lambda: s3.list_objects_v2(Bucket="mediafm", Prefix=f"dagster-logs/storage/{runs[0]['runId']}").get("Contents"),
        60,
    )
    assert any(found["Key"].endswith(".err") for found in logs)

    delete = f'mutation {{ deletePipelineRun(runId: "{runs[0]["runId"]}") {{ __typename }} }}'
    assert local.ask(delete, local.read_only_url)["data"]["deletePipelineRun"]["__typename"] == "UnauthorizedError"
    assert runs[0]["runId"] in {run["runId"] for run in local.runs()}
    assert local.ask(delete)["data"]["deletePipelineRun"]["__typename"] == "DeletePipelineRunSuccess"
    assert not os.path.exists(local.folder / "home" / "history"), "nothing is kept in SQLite"
