"""No secret of a deployment stands in what it wrote, or in what its webserver tells, least of all when a run fails."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.deployment import Deployment, deployed, wait_for
from tests.deploy.test_local import PATIENCE_S, WEIGHTLESS, five_free_ports

CANARIES = {
    name: f"canary-{uuid.uuid4().hex}" for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "OPENAI_API_KEY")
}
WEBHOOK = f"canary-{uuid.uuid4().hex}"


@pytest.fixture
def failing() -> Iterator[Deployment]:
    """A deployment that has secrets, and needs servers that are not there: every title, and every alert, fails."""
    pytest.importorskip("dagster_postgres", reason="dagster-postgres is not installed: pip install '.[deploy]'")
    if not any(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        pytest.skip("Postgres is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="mediafm-secrets-"))
    folder.chmod(0o755)
    nowhere = "http://127.0.0.1:9"
    needs = {
        "MEDIAFM_TEXT_ENCODER": "openai",
        "OPENAI_BASE_URL": nowhere,
        "MEDIAFM_ALERT_WEBHOOK": f"{nowhere}/services/{WEBHOOK}",
    }
    try:
        with deployed(
            folder, five_free_ports(), {**WEIGHTLESS, **needs, **CANARIES, "OMP_NUM_THREADS": "1"}
        ) as running:
            yield running
    finally:
        shutil.rmtree(folder)


def told(running: Deployment, run_id: str) -> dict[str, str]:
    """What the webserver says of the instance and of the run, by what was asked."""
    repository = '{repositoryLocationName: "mediafm", repositoryName: "__repository__"}'
    resources = "... on Repository { allTopLevelResourceDetails { name configuredValues { key value } } }"
    events = "... on MessageEvent { message } ... on ErrorEvent { error { message stack } }"
    queries = {
        "instance": "{ instance { info } }",
        "run": f'{{ runOrError(runId: "{run_id}") {{ ... on Run {{ runConfigYaml tags {{ key value }} }} }} }}',
        "resources": f"{{ repositoryOrError(repositorySelector: {repository}) {{ {resources} }} }}",
        "events": f'{{ logsForRun(runId: "{run_id}") {{ ... on EventConnection {{ events {{ {events} }} }} }} }}',
    }
    answers = {name: running.ask(query) for name, query in queries.items()}
    assert not [answer for answer in answers.values() if "errors" in answer]
    assert answers["instance"]["data"]["instance"]["info"]
    assert answers["run"]["data"]["runOrError"]["tags"]
    assert answers["resources"]["data"]["repositoryOrError"]["allTopLevelResourceDetails"]
    return {name: str(answer) for name, answer in answers.items()}


def database(password: str, port: int) -> str:
    """Every row of every table of Dagster's database."""
    import sqlalchemy as sa

    engine = sa.create_engine(f"postgresql+psycopg2://dagster:{password}@127.0.0.1:{port}/dagster")
    metadata = sa.MetaData()
    metadata.reflect(engine)
    with engine.connect() as connection:
        rows = {table.name: connection.execute(sa.select(table)).all() for table in metadata.sorted_tables}
    engine.dispose()
    assert rows["event_logs"], "the database that was looked at is not the one that is used"
    return str(rows)


def in_the_bucket(running: Deployment) -> dict[str, str]:
    """Every object: the films, the lake, and what steps and sensors printed."""
    import boto3

    s3 = boto3.client("s3", endpoint_url=running.s3_url, aws_access_key_id="local", aws_secret_access_key="local")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="mediafm")
    keys = [found["Key"] for page in pages for found in page["Contents"]]
    return {key: s3.get_object(Bucket="mediafm", Key=key)["Body"].read().decode("latin-1") for key in keys}


def on_disk(folder: Path) -> dict[str, str]:
    """Every file but Postgres' own, and the file that holds its password for the next start."""
    files = [file for file in folder.rglob("*") if file.is_file() and folder / "postgres" not in file.parents]
    return {str(file): file.read_text("latin-1") for file in files if file.name != "password"}


@pytest.mark.timeout(3 * PATIENCE_S)
def test_no_secret_is_written_or_told_where_a_run_fails(failing: Deployment, small_catalogue: Path) -> None:
    failing.drop("night-train", sorted((small_catalogue / "titles").iterdir())[0])
    (run, *_) = wait_for(
        "the failure of a run", lambda: [run for run in failing.runs() if run["status"] == "FAILURE"], PATIENCE_S
    )
    alert = "the alert could not be sent"
    wait_for("the alert's failure", lambda: alert in str(in_the_bucket(failing)) + str(on_disk(failing.folder)), 120)

    password = (failing.folder / "password").read_text()
    stored = database(password, failing.postgres_port)
    written = {
        **told(failing, run["runId"]),
        "database": stored,
        **in_the_bucket(failing),
        **on_disk(failing.folder),
    }
    assert "OPENAI_BASE_URL" in written["events"] or "Connection" in written["events"], "the run failed of the server"
    assert any(name.startswith("lake/failures/") for name in written)
    assert {f"{failing.folder}/{part}.log" for part in ("code", "daemon", "webserver")} <= written.keys()
    secrets = {**CANARIES, "MEDIAFM_ALERT_WEBHOOK": WEBHOOK, "MEDIAFM_POSTGRES_URL": password}
    assert not [
        (secret, where) for where, text in written.items() for secret, value in secrets.items() if value in text
    ]
