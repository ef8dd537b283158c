"""The commands as a person calls them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from mediafm_assets.commands.cli import main
from tests.mediafm_assets.conftest import Places
from tests.mediafm_assets.pages.conftest import BARE, Site

QUERY = "the sea and the fire"


@pytest.fixture
def chosen(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    site.places.use(monkeypatch)
    return site


def test_search_prints_a_table_with_times(chosen: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", QUERY, "-k", "3"]) == 0
    head, *hits = capsys.readouterr().out.splitlines()[:4]
    assert head.split() == ["title", "shot", "time", "matched", "words"]
    for hit in hits:
        assert re.match(r"\S+ +\d+ +\d+:\d\d\.\d–\d+:\d\d\.\d +text 0\.\d\d +\S", hit)


def test_search_answers_as_the_api_does(chosen: Site, capsys: pytest.CaptureFixture[str]) -> None:
    like = f"{chosen.ids[0]}:1"
    assert main(["search", QUERY, "--like", like, "--title", chosen.ids[0], "-k", "4", "--json"]) == 0
    asked = {"q": QUERY, "like": like, "title": chosen.ids[0], "k": 4}
    assert json.loads(capsys.readouterr().out) == chosen.get("/api/search", params=asked).json()


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        ([""], 2, "Say what to look for"),
        ([" \n "], 2, "Say what to look for"),
        (["x" * 100_000], 2, "The query has 100,000 characters"),
        (["bell\x07"], 2, "control characters"),
        (["sea", "-k", "101"], 2, "k must be a whole number from 1 to 100"),
        (["sea", "--title", "nobody"], 1, "no such title"),
        (["--like", "nobody:1"], 1, "no such title"),
        (["--like", "../x:1"], 1, "TITLE:SHOT"),
        (["--like", f"{BARE}:0"], 1, "has 0 shots"),
    ],
)
def test_search_refuses_in_one_sentence(
    chosen: Site, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, sentence: str
) -> None:
    assert main(["search", *arguments]) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert sentence in said.err
    assert said.err.count("\n") == 1


def test_show_says_what_is_known_of_a_title_on_one_screen(chosen: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", chosen.ids[0]]) == 0
    shown = capsys.readouterr().out
    for part in ("scenes (", "tags (4)", "ad breaks (2)", "highlights (1)", "nearest titles (1)", "calm", "0.81"):
        assert part in shown
    assert "The probe does not beat chance" in shown
    assert len(shown.splitlines()) < 60


def test_show_of_a_title_without_shots_or_an_unknown_one(chosen: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", BARE]) == 0
    assert "no shots yet" in capsys.readouterr().out
    assert main(["show", "../../etc/passwd"]) == 1
    assert capsys.readouterr().err == "mediafm: There is no such title in the catalogue.\n"


def test_serve_says_where_and_answers_until_it_is_stopped(finished: Places, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mediafm_assets.commands.cli", "serve", "--port", "0"]
    environment = {**os.environ, **finished.environment, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found is not None
        assert httpx2.get(f"{found[0]}/search", params={"q": QUERY}, timeout=60).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130, -signal.SIGINT)
    finally:
        process.kill()
        process.wait()


def test_serve_names_a_port_that_cannot_be_had(chosen: Site, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot be listened on" in capsys.readouterr().err
    assert main(["serve", "--port", "99999"]) == 2
