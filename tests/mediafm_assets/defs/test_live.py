"""Titles that grow, tick by tick, by the command itself: what is made of them, and what in the end."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import numpy as np
import polars as pl
import pytest

from mediafm_assets.commands.cli import main
from mediafm_assets.graph.freshness import FRESHNESS
from mediafm_assets.graph.materialise import TitleRun, stale_tables, write_title
from mediafm_assets.graph.versions import Catalogue
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages
from resources.encoders import AudioEncoder, TextEncoder, VideoEncoder
from resources.lake import DeltaLake, vectors
from tests.mediafm_assets.conftest import Places
from tests.mediafm_assets.pages.conftest import serving
from tests.resources.films import render, scenes, spoken, tone
from tests.resources.segments import cut, joined

LENGTHS = (40, 31, 57, 26, 75, 44, 38, 61, 33, 52, 47, 29)
EMBEDDINGS = ("video_embeddings", "audio_embeddings", "text_embeddings", "fused_embeddings")
SRT = "1\n00:00:01,000 --> 00:00:03,000\nGood evening.\n\n2\n00:00:09,500 --> 00:00:12,000\nAnd good night.\n"


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    hums = np.concatenate([tone(180 + 60 * i, n / 25) for i, n in enumerate(LENGTHS)])
    return render(path, scenes(LENGTHS), sound={"eng": hums})


@pytest.fixture
def live_places(places: Places, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A finished catalogue, with the detector that needs to see the least before a cut."""
    monkeypatch.setenv("MEDIAFM_DETECTOR", "adaptive")
    return places


class Event:
    """A title's folder in the landing zone, and ticks of what is made of it."""

    def __init__(self, places: Places, title_id: str = "evening") -> None:
        self.places, self.title_id = places, title_id
        self.folder = places.landing / "titles" / title_id
        self.folder.mkdir()

    def says(self, **said: Any) -> None:
        self.put("title.json", json.dumps({"title": "Evening", "language": "en", **said}).encode())

    def put(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.write_bytes(data)
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 3600))

    def takes(self, *files: Path) -> None:
        for file in files:
            self.put(file.name, file.read_bytes())

    def tick(self) -> None:
        """Make what the title lacks, up to its contextual vectors."""
        made = resources({**self.places.environment, "MEDIAFM_DETECTOR": "adaptive"})
        run = TitleRun(SimpleNamespace(**made), Catalogue(self.places.lake, made, all_stages()))
        for stage in run.catalogue.stages.of_scope("title"):
            if stage.group in ("ingest", "embeddings", "model") and stale_tables(run, stage, self.title_id):
                write_title(run, stage, self.title_id)

    def materialise(self) -> int:
        return main(["materialize", "--title", self.title_id, "--no-train"])

    def rows(self, table: str) -> pl.DataFrame:
        """Without what differs between two titles."""
        partition = {"title_id": self.title_id}
        if table == "contextual_embeddings":
            (version,) = {key[0] for key in self.places.lake.data_versions(table) if key[1] == self.title_id}
            partition["encoder_version"] = version
        return self.places.lake.read(table, **partition).drop("title_id", "data_version")

    def state(self, table: str) -> tuple[str, str]:
        rows = self.places.lake.read_whole(FRESHNESS).filter(title_id=self.title_id, table=table)
        state, reason = rows.select("state", "reason").row(0)
        return state, reason


def assert_vectors(ours: pl.DataFrame, theirs: pl.DataFrame) -> None:
    others = pl.exclude(pl.List(pl.Float32))
    assert ours.select(others).equals(theirs.select(others))
    for column in ours.select(pl.col(pl.List(pl.Float32))).columns:
        assert np.abs(vectors(ours, column) - vectors(theirs, column)).max() <= 1e-5, column


@pytest.mark.parametrize("kind", ["ts", "m4s", "growing"])
def test_a_title_that_grew_is_in_the_end_what_it_is_when_it_lands_whole(
    kind: str, film: Path, live_places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = cut(film, tmp_path / "cut", "ts" if kind == "growing" else kind)
    one_file = joined(segments, tmp_path / f"film.{'mp4' if kind == 'm4s' else 'ts'}")
    whole = Event(live_places, "whole")
    whole.takes(one_file)
    whole.put("evening.en.srt", SRT.encode())
    whole.says()
    whole.tick()

    made: dict[str, int] = {}
    for encoder in (VideoEncoder, AudioEncoder, TextEncoder):
        count_embedded(encoder, made, monkeypatch)
    live = Event(live_places)
    live.says(live=True)
    live.put("evening.en.srt", SRT.encode())
    seen = []
    for place in range(3, len(segments) + 1, 3):
        if kind == "growing":
            live.takes(joined(segments[:place], tmp_path / "cut" / "film.ts"))
        else:
            live.takes(*segments[:place])
        if place == 6:
            die_before_shots_are_written(live, monkeypatch)
        live.tick()
        shots = live.rows("shots")
        assert shots.drop("mark").equals(whole.rows("shots").drop("mark").head(len(shots)))
        for table in EMBEDDINGS:
            assert_vectors(live.rows(table), whole.rows(table).head(len(shots)))
        assert len(live.rows("contextual_embeddings")) == len(shots)
        seen.append(len(shots))
    assert seen == sorted(seen)
    assert 0 < seen[0] < seen[-1] < len(LENGTHS)

    if kind == "growing":
        live.takes(one_file)
    else:
        live.takes(*segments)
    live.says(live=False)
    live.tick()
    for table in ("shots", "shot_frames"):
        assert live.rows(table).equals(whole.rows(table)), table
        assert live_places.versions("evening")[table] == live_places.versions("whole")[table]
    for table in (*EMBEDDINGS, "contextual_embeddings"):
        assert_vectors(live.rows(table), whole.rows(table))
    said = whole.rows("text_embeddings")["present"].sum()
    assert (made["VideoEncoder"], made["AudioEncoder"]) == (len(LENGTHS), len(LENGTHS))
    assert made["TextEncoder"] <= said + 1  # the title's own; what is said twice may be made once
    files = live_places.files()
    live.tick()
    assert live_places.files() == files
    with serving(live_places) as url:
        shown = httpx2.get(f"{url}/titles/evening/film", headers={"Range": "bytes=1000-"}, timeout=30)
    assert shown.content == one_file.read_bytes()[1000:]


def die_before_shots_are_written(live: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick of a process that is killed when the shots' frames are written already."""
    write = DeltaLake.write

    def killed(lake: DeltaLake, table: str, *about: Any) -> int:
        if table == "shots":
            raise KeyboardInterrupt
        return write(lake, table, *about)

    with monkeypatch.context() as then:
        then.setattr(DeltaLake, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            live.tick()


def count_embedded(encoder: type[Any], made: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Count what the encoder is given of shots."""
    embed, name = encoder.embed, encoder.__name__
    made[name] = 0

    def counted(self: Any, shots: Any) -> Any:
        given = list(shots)
        made[name] += len(given)
        return embed(self, given)

    monkeypatch.setattr(encoder, "embed", counted)


def test_what_is_too_little_or_wrong_is_said_and_goes_on_when_it_is_mended(
    film: Path, live_places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segments, others = cut(film, tmp_path / "cut"), cut(film, tmp_path / "other", seconds=3.0)
    live = Event(live_places)
    live.says(live=True)
    live.put(segments[0].name, segments[0].read_bytes()[: len(segments[0].read_bytes()) // 2])
    assert live.materialise() == 0
    assert live.state("shots") == ("waiting", "shots: no shot is certain yet; it waits for more of its film")
    assert live.state("titles")[0] == "fresh"

    live.takes(*segments[:4])
    live.put(segments[4].name, others[2].read_bytes())  # from 6 s on, where the one before it ends at 8 s
    assert live.materialise() == 1
    said = f"{segments[4].name} begins 1.96 s before {segments[3].name} ends"
    assert said in capsys.readouterr().err
    assert live.state("titles")[0] == "failed"

    live.takes(*segments[4:])
    assert live.materialise() == 0
    assert len(live.rows("contextual_embeddings")) > 8
    assert live.state("titles")[0] == "fresh"
    assert live_places.lake.read_whole("failures").is_empty()


def test_a_film_whose_beginning_is_another_in_the_end_is_made_anew(
    film: Path, live_places: Places, tmp_path: Path
) -> None:
    segments = cut(film, tmp_path / "cut")
    live, whole = Event(live_places), Event(live_places, "whole")
    live.says(live=True)
    live.takes(*segments[:6])
    live.tick()
    live.put(segments[0].name, segments[0].read_bytes()[:-188] + segments[1].read_bytes()[:188])
    live.takes(*segments[6:])
    live.says(live=False)
    live.tick()
    whole.takes(joined(sorted(live.folder.glob("seg*")), tmp_path / "film.ts"))
    whole.says()
    whole.tick()
    assert live.rows("shot_frames").equals(whole.rows("shot_frames"))


def test_what_is_only_heard_waits_until_it_is_over(live_places: Places, tmp_path: Path) -> None:
    talk = spoken(tmp_path / "talk.mp3", tone(300, 12, 16000))
    live = Event(live_places, "talk")
    live.says(live=True)
    live.takes(talk)
    assert live.materialise() == 0
    state, reason = live.state("titles")
    assert state == "waiting"
    assert "what is only heard is cut as a whole" in reason
    live.says(live=False)
    live.tick()
    assert live.rows("shots")["end_s"][-1] == pytest.approx(12, abs=0.2)
