"""Dagster's own pages in a real browser, as a data engineer sees them: what failed and why, and pictures."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mediafm_assets.commands.cli import main
from mediafm_assets.stages import all_stages
from tests.conftest import free_port
from tests.mediafm_assets.conftest import Places, wait_for

NEVER_MADE = "zz-broken"


@dataclass
class Dagster:
    """Dagster's webserver. gone_bad: a title that was made before its film was cut off; fine: one that is as it was."""

    url: str
    gone_bad: str
    fine: str

    def ask(self, query: str) -> Any:
        body = json.dumps({"query": query}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["data"]

    def answers(self) -> bool:
        try:
            return bool(self.ask("{ version }"))
        except OSError:
            return False


@pytest.fixture(scope="module")
def dagster(chromium: Any, finished: Places, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dagster]:
    """Look, but do not touch. The small catalogue, of which one title can no more be made, and one never could be."""
    folder = tmp_path_factory.mktemp("seen")
    places = finished.copy(folder / "places")
    titles = places.landing / "titles"
    fine, *_, gone_bad = sorted(path.name for path in titles.iterdir())
    (titles / gone_bad / "film.mp4").write_bytes(b"not a film")
    os.utime(titles / gone_bad / "film.mp4", (0, 0))  # so that nobody takes it for still being written
    shutil.copytree(titles / gone_bad, titles / NEVER_MADE)
    with pytest.MonkeyPatch.context() as monkeypatch:
        places.use(monkeypatch)
        assert main(["materialize", "--no-train"]) == 1
        port = free_port()
        command = [sys.executable, "-m", "dagster_webserver", "-m", "mediafm_assets.definitions", "-p", str(port)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        running = Dagster(f"http://127.0.0.1:{port}", gone_bad, fine)
        try:
            wait_for(running.answers)
            yield running
        finally:
            server.terminate()
            server.wait()


def said(browser: Any) -> str:
    return str(browser.execute_script("return document.body.innerText"))


def test_the_partitions_page_of_a_title_that_can_no_more_be_made_says_why(chromium: Any, dagster: Dagster) -> None:
    chromium.get(f"{dagster.url}/assets/fused_embeddings?view=partitions&partition={dagster.gone_bad}")
    wait_for(lambda: f"{dagster.gone_bad}: titles: film.mp4 cannot be opened" in said(chromium))


def test_a_title_that_was_never_made_says_why_among_the_assets_events(chromium: Any, dagster: Dagster) -> None:
    chromium.get(f"{dagster.url}/assets/fused_embeddings?view=events&partition={NEVER_MADE}")
    wait_for(lambda: f"{NEVER_MADE}: titles: film.mp4 cannot be opened" in said(chromium))


def test_a_check_on_the_assets_page_says_how_many_are_fine_and_which_failed(chromium: Any, dagster: Dagster) -> None:
    chromium.get(f"{dagster.url}/assets/fused_embeddings?view=checks&checkDetail=every_title")
    wait_for(lambda: f"5 fine, 2 failed: {dagster.gone_bad}: titles: " in said(chromium))


def test_why_something_is_not_fresh_has_room_on_the_page(chromium: Any, dagster: Dagster) -> None:
    chromium.set_window_size(1500, 1000)
    chromium.get(f"{dagster.url}/assets/freshness")
    reasons = "//td[starts-with(normalize-space(.), 'titles: film.mp4 cannot be opened')]"
    reason, *_ = wait_for(lambda: chromium.find_elements("xpath", reasons))
    assert chromium.execute_script(
        """const cell = arguments[0].getBoundingClientRect();
        for (let around = arguments[0]; around = around.parentElement; )
            if (getComputedStyle(around).overflowX !== "visible" && around.getBoundingClientRect().right < cell.right)
                return false;
        return true""",
        reason,
    ), "it is cut off"


def test_a_picture_is_one_click_behind_its_name_and_has_words_for_those_who_do_not_see_it(
    chromium: Any, dagster: Dagster
) -> None:
    """The last title of a run has one, however little time there is for pictures."""
    chromium.get(f"{dagster.url}/assets/shots?view=partitions&partition={dagster.gone_bad}")
    shown = "//*[normalize-space(text())='[Show Markdown]']"
    (name,) = wait_for(lambda: chromium.find_elements("xpath", shown))
    name.click()
    (picture,) = wait_for(lambda: chromium.find_elements("css selector", "img[src^='data:image/webp']"))
    wait_for(lambda: chromium.execute_script("return arguments[0].naturalWidth", picture))
    assert len(picture.get_attribute("alt")) > 10


def test_dagster_calls_no_partition_out_of_step_that_is_fresh(dagster: Dagster) -> None:
    tables = all_stages().title_tables
    keys = ", ".join(f'{{path: "{table}"}}' for table in tables)
    of = f'(partition: "{dagster.fine}")'
    fields = f"assetKey {{ path }} staleStatus{of} staleCauses{of} {{ reason }}"
    nodes = dagster.ask(f"{{ assetNodes(assetKeys: [{keys}]) {{ {fields} }} }}")["assetNodes"]
    marked = {node["assetKey"]["path"][0]: node for node in nodes}
    assert marked.keys() == set(tables)
    assert {table: node["staleCauses"] for table, node in marked.items() if node["staleStatus"] != "FRESH"} == {}
