"""The real webserver and daemon: a dropped title is taken up with no hand moved, and nothing else is; a change of
configuration waits for a click in a real browser."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mediafm_assets.conftest import Places

PATIENCE_S = 240
"""The promise is two minutes on a quiet machine; a busy one is given more, and the time is printed."""


def ask(port: int, query: str) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        data=json.dumps({"query": query}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.load(response)["data"]


def wait_for(what: str, ready: Any, patience_s: float = PATIENCE_S) -> Any:
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


@pytest.fixture
def ui(places: Places, tmp_path: Path) -> Iterator[int]:
    """`mediafm ui` on a copy of the finished catalogue; the port it listens on. It is started as a shell starts a
    background job, with SIGINT ignored, and has to end by SIGTERM all the same."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path / "ui.log").open("w")
    command = [sys.executable, "-m", "mediafm_assets.commands.cli"]
    process = subprocess.Popen(
        ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command, "ui", "--port", str(port)],
        env={**os.environ, **places.environment, "PYTHONPATH": str(Path(__file__).parents[3])},
        cwd=tmp_path,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_for("the UI's start", lambda: ask(port, "{ version }"))
        yield port
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


RUNS = "{ runsOrError { ... on Runs { results { runId status tags { key value } assetSelection { path } } } } }"


def runs(port: int) -> list[dict[str, Any]]:
    return list(ask(port, RUNS)["runsOrError"]["results"])


@pytest.mark.timeout(4 * PATIENCE_S)  # each wait ends by itself, and says what it waited for
def test_a_dropped_title_gets_contextual_embeddings_and_nothing_else_is_touched(places: Places, ui: int) -> None:
    wait_for(
        "the sensors' first ticks",
        lambda: ask(ui, '{ assetNodeOrError(assetKey: {path: ["drops"]}) { ... on AssetNode { partitionKeys } } }')[
            "assetNodeOrError"
        ]["partitionKeys"],
    )
    time.sleep(25)  # time enough for automation to do something that it should not do
    before_runs, files = {run["runId"] for run in runs(ui)}, places.files()
    source = sorted((places.landing / "titles").iterdir())[0]
    folder = places.landing / "titles" / "zz-dropped"
    folder.mkdir()
    for file in source.iterdir():
        if file.name != "title.json":
            shutil.copyfile(file, folder / file.name)
    time.sleep(15)
    assert not any("zz-dropped" in name for name in places.files()), "a folder without title.json was taken up"
    shutil.copyfile(source / "title.json", folder / "title.json")
    dropped = time.monotonic()

    wait_for(
        "contextual embeddings of the dropped title",
        lambda: any(title == "zz-dropped" for _, title in places.lake.data_versions("contextual_embeddings")),
    )
    print(f"contextual rows {time.monotonic() - dropped:.0f} s after title.json")
    done = wait_for(
        "the end of its runs",
        lambda: (
            (new := [run for run in runs(ui) if run["runId"] not in before_runs])
            and all(run["status"] in ("SUCCESS", "FAILURE") for run in new)
            and new
        ),
    )
    assert {run["status"] for run in done} == {"SUCCESS"}
    of_titles = [run for run in done if any(tag["key"] == "dagster/partition" for tag in run["tags"])]
    assert {tag["value"] for run in of_titles for tag in run["tags"] if tag["key"] == "dagster/partition"} == {
        "zz-dropped"
    }
    assert len(of_titles) == 1, "one run takes the title from its drop to its contextual embeddings"
    kept = {name: mtime for name, mtime in places.files().items() if name in files}
    assert kept == files
    materialised = ask(
        ui,
        '{ assetNodeOrError(assetKey: {path: ["contextual_embeddings"]}) { ... on AssetNode {'
        ' latestMaterializationByPartition(partitions: ["zz-dropped"]) { partition } } } }',
    )["assetNodeOrError"]["latestMaterializationByPartition"]
    assert [event["partition"] for event in materialised] == ["zz-dropped"]


@pytest.fixture
def another_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIAFM_DETECTOR", "adaptive")


@pytest.mark.usefixtures("another_detector")
@pytest.mark.timeout(4 * PATIENCE_S)
def test_a_click_approves_of_a_change_of_configuration(places: Places, chromium: Any, ui: int) -> None:
    def said() -> str:
        return str(chromium.execute_script("return document.body.innerText"))

    before = {run["runId"] for run in runs(ui)}
    chromium.get(f"http://127.0.0.1:{ui}/assets/approval?view=checks")
    wait_for("the check's sentence", lambda: "6 of 6 titles would be made again" in said())
    buttons = "//button[normalize-space(.)='Materialize'][not(@disabled)]"
    (button,) = wait_for("the button", lambda: chromium.find_elements("xpath", buttons))
    assert {run["runId"] for run in runs(ui)} == before, "nothing is begun before"
    button.click()
    clicked = time.monotonic()
    wait_for("the approval", lambda: len(places.lake.read_whole("approvals")) == 2)
    print(f"approved {time.monotonic() - clicked:.0f} s after the click")
    assert places.lake.read_whole("approvals").sort("decided_at")["why"][-1] == "approved in the UI"
    wait_for("the check's word that nothing waits", lambda: "nothing waits for an approval" in said())

    def making_shots() -> bool:
        new = [run for run in runs(ui) if run["runId"] not in before]
        return any({"path": ["shots"]} in run["assetSelection"] for run in new)

    wait_for("the titles' run", making_shots)
