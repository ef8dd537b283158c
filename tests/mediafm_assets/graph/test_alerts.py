"""Alerts: every failed run is told of once, and a webhook that is not well changes nothing."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
import pytest

from mediafm_assets.definitions import defs
from mediafm_assets.settings import ConfigurationError, environment, resources
from resources import webhook
from resources.errors import Unavailable
from resources.webhook import Webhook
from tests.mediafm_assets.conftest import Drop, Places

CANARY = "hooks-canary-3141"


class Hook:
    """A local web server that takes alerts: it answers as `answer` says, "hang" longer than anybody waits."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.answer: int | str = 200
        self.gone = threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.texts.append(json.loads(body)["text"])
                if hook.answer == "hang":
                    hook.gone.wait(30)
                while hook.answer == "drip" and not hook.gone.wait(0.05):
                    self.connection.sendall(b"H")
                self.send_response(hook.answer if isinstance(hook.answer, int) else 200)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/{CANARY}"


@pytest.fixture
def hook() -> Iterator[Hook]:
    running = Hook()
    threading.Thread(target=running.server.serve_forever, daemon=True).start()
    yield running
    running.gone.set()
    running.server.shutdown()


def failing_run(instance: dg.DagsterInstance, title_id: str) -> str:
    instance.add_dynamic_partitions("titles", [title_id])
    job = defs().resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey("titles")],
        tags={"dagster/partition": title_id},
        raise_on_error=False,
    )
    assert not result.success
    return result.run_id


def tick(instance: dg.DagsterInstance, cursor: str | None) -> str | None:
    """One tick of the sensor, as the daemon makes it; returns its cursor."""
    sensor = defs().get_sensor_def("alerts")
    repository = defs().get_repository_def()
    with dg.build_sensor_context(instance, cursor=cursor, repository_def=repository, resources=resources()) as context:
        done = sensor.evaluate_tick(context)
    assert all(reaction.error is None for reaction in done.dagster_run_reactions or ())
    return done.cursor


def test_a_failed_run_is_told_of_once_with_the_sentence_for_the_title(
    empty_places: Places, drop: Drop, tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIAFM_ALERT_WEBHOOK", hook.url)
    monkeypatch.setenv("MEDIAFM_UI_URL", "https://dagster.example/")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a film" * 1000)
    drop(empty_places.landing, "broken", broken, title="<!channel> & co")
    with dg.DagsterInstance.ephemeral() as instance:
        cursor = tick(instance, None)
        run_id = failing_run(instance, "broken")
        cursor = tick(instance, cursor)
        cursor = tick(instance, cursor)
    (text,) = hook.texts
    assert text.startswith(f"MediaFM: run {run_id}: broken: titles: ")
    assert "film.mp4" in text
    assert text.endswith(f"\nhttps://dagster.example/runs/{run_id}")
    assert len(text.split("\n")[0]) <= 2000


def test_an_error_that_nobody_foresaw_is_told_with_its_step_and_cause(
    empty_places: Places, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIAFM_ALERT_WEBHOOK", hook.url)

    @dg.op
    def careless() -> None:
        raise KeyError("a name")

    @dg.job
    def unforeseen() -> None:
        careless()

    with dg.DagsterInstance.ephemeral() as instance:
        cursor = tick(instance, None)
        run_id = unforeseen.execute_in_process(instance=instance, raise_on_error=False).run_id
        tick(instance, cursor)
    assert hook.texts == [f"MediaFM: run {run_id}: careless: KeyError: 'a name'"]


def test_names_from_outside_call_nobody_and_make_no_links(
    empty_places: Places, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIAFM_ALERT_WEBHOOK", hook.url)
    with dg.DagsterInstance.ephemeral() as instance:
        cursor = tick(instance, None)
        failing_run(instance, "<!channel> <http://x|y>")
        tick(instance, cursor)
    (text,) = hook.texts
    assert not set("<>") & set(text)


@pytest.mark.parametrize("answer", [500, 404, 302, "hang", "drip", "closed"])
def test_a_webhook_that_is_not_well_is_one_warning_without_its_address(
    empty_places: Places,
    hook: Hook,
    answer: int | str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MEDIAFM_ALERT_WEBHOOK", hook.url)
    monkeypatch.setattr(webhook, "TIMEOUT_S", 0.5)
    hook.answer = answer
    if answer == "closed":
        hook.server.server_close()
    caplog.set_level(logging.DEBUG)
    with dg.DagsterInstance.ephemeral() as instance:
        cursor = tick(instance, None)
        run_id = failing_run(instance, "nobody")
        cursor = tick(instance, cursor)
        tick(instance, cursor)
        (run,) = instance.get_runs(dg.RunsFilter(run_ids=[run_id]))
        events = " ".join(str(event) for event in instance.all_logs(run_id))
    assert run.status == dg.DagsterRunStatus.FAILURE
    printed = "".join(capfd.readouterr())
    assert printed.count(f"WARNING - run {run_id}: the alert ") == printed.count("the alert ") == 1
    assert CANARY not in events + caplog.text + printed


def test_an_alert_waits_for_no_webhook_longer_than_its_time(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "TIMEOUT_S", 0.3)
    hook.answer = "hang"
    started = time.monotonic()
    with pytest.raises(Unavailable, match="could not be sent") as refused:
        Webhook(url=hook.url).post("a text")
    assert time.monotonic() - started < 20, "the server would hang for 30 s"
    assert CANARY not in str(refused.value)


def test_without_the_variable_there_is_no_such_sensor(
    empty_places: Places, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "alerts" not in {sensor.name for sensor in defs().get_repository_def().sensor_defs}
    monkeypatch.setenv("MEDIAFM_ALERT_WEBHOOK", hook.url)
    assert "alerts" in {sensor.name for sensor in defs().get_repository_def().sensor_defs}


@pytest.mark.parametrize("address", [f"ftp://{CANARY}", CANARY, f"https:///{CANARY}", f"file:///etc/{CANARY}"])
def test_what_is_no_address_is_refused_without_being_shown(address: str) -> None:
    with pytest.raises(ConfigurationError, match="MEDIAFM_ALERT_WEBHOOK it must be an address") as refused:
        environment({"MEDIAFM_ALERT_WEBHOOK": address})
    assert CANARY not in str(refused.value)
