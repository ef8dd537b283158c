"""A finished small catalogue, made once by the command itself, and copies of it to do things to."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mediafm_assets.commands.cli import main
from resources.lake import DeltaLake
from tests.resources.openai_server import GOOD_KEY, OpenAIServer, openai_server

QUICK_ENCODER = {"layers": 1, "hidden": 32, "heads": 2, "max_steps": 6, "fixed_steps": 6, "evaluate_every": 3}
WEIGHTLESS = {  # quick, and of what most tests are about no part
    "MEDIAFM_VIDEO_ENCODER": "descriptors",
    "MEDIAFM_AUDIO_ENCODER": "logmel",
    "MEDIAFM_TEXT_ENCODER": "hashed",
}


PATIENCE_S = 120
"""For pages, on a busy machine."""


def wait_for(ready: Callable[[], Any]) -> Any:
    """What it returns, once that is something."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := ready()):
        assert time.monotonic() < deadline, "that did not happen"
        time.sleep(0.1)
    return found


@dataclass
class Places:
    """A landing zone, a lake and a Dagster instance of their own."""

    root: Path

    @property
    def landing(self) -> Path:
        return self.root / "landing"

    @property
    def lake(self) -> DeltaLake:
        return DeltaLake(uri=str(self.root / "lake"))

    @property
    def environment(self) -> dict[str, str]:
        return {
            "MEDIAFM_LANDING": str(self.landing),
            "MEDIAFM_LAKE": str(self.root / "lake"),
            "DAGSTER_HOME": str(self.root / "home"),
            "MEDIAFM_ENCODER_OVERRIDES": json.dumps(QUICK_ENCODER),
            **WEIGHTLESS,
        }

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)

    def files(self) -> dict[str, float]:
        """Every data file of the lake with its modification time; but those of the books, which every run that works
        goes on with."""
        lake = self.root / "lake"
        found = {str(path.relative_to(lake)): path.stat().st_mtime_ns for path in lake.rglob("*.parquet")}
        return {name: mtime for name, mtime in found.items() if not name.startswith(("costs/", "freshness/"))}

    def versions(self, title_id: str) -> dict[str, str]:
        """The stored version of each per-title table; of contextual embeddings, the newest encoder's."""
        tables = ("titles", "shots", "shot_frames", "video_embeddings", "audio_embeddings", "text_embeddings")
        tables += ("global_embeddings", "fused_embeddings")
        stored = {table: self.lake.data_versions(table).get((title_id,), "") for table in tables}
        contextual = self.lake.data_versions("contextual_embeddings")
        newest = max((key for key in contextual if key[1] == title_id), default=None)
        return {**stored, "contextual_embeddings": contextual[newest] if newest else ""}

    def copy(self, root: Path) -> "Places":
        shutil.copytree(self.root, root)
        return Places(root)


@pytest.fixture(scope="session")
def finished(small_catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Places:
    """The small catalogue after `mediafm materialize`. Look, but do not touch."""
    places = Places(tmp_path_factory.mktemp("finished"))
    shutil.copytree(small_catalogue, places.landing)
    with pytest.MonkeyPatch.context() as monkeypatch:
        places.use(monkeypatch)
        assert main(["materialize"]) == 0
    return places


@pytest.fixture
def places(finished: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A copy of the finished catalogue, chosen by the environment."""
    copy = finished.copy(tmp_path / "copy")
    copy.use(monkeypatch)
    return copy


@pytest.fixture
def empty_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """Three empty places, chosen by the environment."""
    places = Places(tmp_path / "places")
    (places.landing / "titles").mkdir(parents=True)
    places.use(monkeypatch)
    return places


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    """The text encoder's service, of which a client without tiktoken's vocabulary counts bytes."""
    with openai_server() as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        monkeypatch.setenv("OPENAI_API_KEY", GOOD_KEY)
        monkeypatch.setenv("MEDIAFM_TEXT_ENCODER", "openai")
        yield running


Drop = Callable[..., Path]


@pytest.fixture
def drop() -> Drop:
    """Drops a title into a landing zone as a good uploader does: title.json last."""

    def land(landing: Path, title_id: str, film: Path | None, **metadata: object) -> Path:
        folder = landing / "titles" / title_id
        folder.mkdir(parents=True)
        if film:
            shutil.copyfile(film, folder / "film.mp4")
        (folder / "title.json").write_text(json.dumps({"title": title_id, "media": "film.mp4", **metadata}))
        for file in folder.iterdir():  # an hour old, so that nobody takes it for still being written
            os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 3600))
        return folder

    return land


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real browser."""
    program, driver_program = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver_program is None:
        pytest.skip("Chromium is not installed: apt-get install chromium chromium-driver")
    from selenium.webdriver import Chrome
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"):
        options.add_argument(f"--{flag}")
    options.add_argument("--disable-background-networking")
    options.add_argument("--disable-component-update")
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = program
    driver = Chrome(options=options, service=Service(executable_path=driver_program))
    driver.set_page_load_timeout(PATIENCE_S)
    yield driver
    driver.quit()
