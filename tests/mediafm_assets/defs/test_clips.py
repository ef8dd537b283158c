"""Other encoders of clips in the graph: beside our own on the same clips, paid for once, and no harm to others."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from dagster import build_asset_context

from mediafm_assets.commands.cli import main
from mediafm_assets.defs.clips import clip_embeddings, price, stored_version, vectors_of_clips, without_encoders
from mediafm_assets.defs.evaluation import REPRESENTATIONS, compared
from mediafm_assets.defs.ingest import title_row
from mediafm_assets.defs.labels import spans_of
from mediafm_assets.graph.versions import Catalogue
from mediafm_assets.graph.whole import CatalogueRun, missing_input
from mediafm_assets.settings import ConfigurationError, resources
from mediafm_assets.stages import all_stages
from model.probes import Labelled, probe_each
from model.tasks import SCENES
from resources.encoders import VideoEncoder
from resources.encoders.clips import vertex
from resources.encoders.clips.encoder import ClipEncoders, Limits
from resources.errors import Unavailable
from resources.lake import DeltaLake
from resources.landing import LandingZone
from tests.mediafm_assets.conftest import Drop, Places
from tests.mediafm_assets.graph.small_lake import named_resources
from tests.resources.clip_services import VertexServer, account_file, running
from tests.resources.films import render, scenes


@dataclass
class Compared:
    """A lake with one registered title of eight labelled clips, and the service that they are put to."""

    lake: DeltaLake
    landing: Path
    server: VertexServer

    def catalogue(self, *names: str) -> Catalogue:
        encoders = ClipEncoders(video=VideoEncoder(), names=list(names))
        found = {**named_resources(self.landing), "clip_encoders": encoders}
        return Catalogue(self.lake, found, all_stages())

    def ask(self, *names: str) -> str:
        """Put the clips to the encoders, as the asset does. Returns what it says at the end; nothing when all is
        done."""
        catalogue = self.catalogue(*names)
        resources = SimpleNamespace(lake=self.lake, **catalogue.resources)
        run = CatalogueRun(resources, catalogue, context=build_asset_context(), version="v")
        try:
            for table, rows in clip_embeddings(run):
                self.lake.append(table, rows)
        except Unavailable as said:
            return str(said)
        finally:
            self.dollars = run.notes["cost_usd"]
        return ""

    def kept(self, name: str) -> pl.DataFrame:
        return self.lake.scan("clip_embeddings").filter(clip_encoder=name).collect().sort("start_s")

    def note(self, name: str) -> str | None:
        """Why the encoder has no score at clip_tone."""
        rows = self.lake.read("clip_labels", task="clip_tone").with_columns(target=pl.col("labels"))
        vectors = vectors_of_clips(self.catalogue(name), spans_of(rows))[name]
        asked = compared("clip_tone", rows, vectors)
        return (probe_each([asked])[0] if isinstance(asked, Labelled) else asked).note


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drop: Drop) -> Iterator[Compared]:
    film = render(tmp_path / "f.mp4", scenes([25] * 6), 25)
    folder = drop(tmp_path / "landing", "t", film)
    lake = DeltaLake(uri=str(tmp_path / "lake"))
    lake.create_tables()
    landing = LandingZone(uri=str(tmp_path / "landing"))
    lake.write("titles", {"title_id": "t"}, pl.DataFrame([title_row(landing, landing.drop("t"))]), "1" * 32)
    lake.write("clip_labels", {"task": "clip_tone"}, labels(0.5 + 0.5 * (n % 2) for n in range(8)), "2" * 32)
    server = VertexServer()
    with running(server):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account_file(server, tmp_path / "account.json")))
        monkeypatch.setattr(vertex, "ADDRESS", server.url)
        monkeypatch.setattr(vertex, "RETRIES", 0)
        monkeypatch.setattr(vertex.Vertex, "at_once", 1)
        yield Compared(lake, folder.parents[1], server)


def labels(seconds: Iterable[float]) -> pl.DataFrame:
    rows = [
        {"clip_id": f"c{n}", "title_id": "t", "start_s": n / 2, "end_s": n / 2 + length, "labels": ["tense"]}
        for n, length in enumerate(seconds)
    ]
    nulls = [pl.lit(None, pl.Float64).alias("score"), pl.lit(None, pl.Int32).alias("label")]
    return pl.DataFrame(rows).with_columns(nulls)


def test_each_clip_is_paid_once_and_for_the_price_that_was_told(few: Compared) -> None:
    planned = price(few.catalogue("vertex", "mean_frames"))
    assert planned == pytest.approx(8 * 0.002)
    assert few.ask("vertex", "mean_frames") == ""
    assert few.dollars == pytest.approx(planned)
    assert [len(few.kept(name)) for name in ("vertex", "mean_frames")] == [len(few.server.paid), 8] == [8, 8]
    assert {len(vector) for vector in few.kept("vertex")["embedding"]} == {1408}
    assert stored_version(few.catalogue("vertex"))
    assert price(few.catalogue("vertex")) == 0
    assert few.ask("vertex") == ""
    assert len(few.server.paid) == 8
    few.lake.write("clip_labels", {"task": "clip_tone"}, labels([0.5] * 9), "3" * 32)
    assert not stored_version(few.catalogue("vertex"))
    assert few.ask("vertex") == ""
    assert len(few.server.paid) == 13  # the ninth, and four that have another end now


def test_a_key_without_rights_stops_one_encoder_and_no_other(few: Compared) -> None:
    few.server.faults = ["403"] * 8
    assert few.ask("vertex", "mean_frames").startswith("vertex: Vertex AI refuses the account (403")
    assert few.server.attempts < 8
    assert few.note("vertex") == (
        "cannot be evaluated: 8 of 8 clips have no vector (not embedded yet: materialise clip_embeddings)"
    )
    assert len(few.kept("mean_frames")) == 8
    assert "cannot be evaluated" not in (few.note("mean_frames") or "")
    few.server.faults = []
    assert few.ask("vertex", "mean_frames") == ""
    assert len(few.server.paid) == 8


def test_answers_that_cannot_be_used_are_said_and_not_paid_for_again(few: Compared) -> None:
    few.server.faults = ["", "nan", "413", "dimension"]
    assert few.ask("vertex") == "vertex: its answer has the shape (77,), where 1408 numbers are documented"
    reasons = few.kept("vertex")["reason"].to_list()
    assert reasons[0] is None
    assert "NaN" in reasons[1]
    assert "refuses the clip (413" in reasons[2]
    assert "(77,)" in reasons[3]
    assert few.ask("vertex") == ""
    assert len(few.server.paid) == len(set(few.server.paid)) == 7  # of eight clips, one was refused, and not paid
    assert (few.note("vertex") or "").startswith("cannot be evaluated: 3 of 8 clips have no vector (")


def test_a_clip_longer_than_a_service_takes_cannot_be_evaluated_and_is_not_sent(
    few: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vertex.Vertex, "limits", Limits(longest_s=0.75))
    assert price(few.catalogue("vertex")) == pytest.approx(4 * 0.002)
    assert few.ask("vertex") == ""
    assert len(few.server.paid) == 4
    said = "cannot be evaluated: 4 of 8 clips have no vector (longer than the 0.75 s that vertex takes)"
    assert few.note("vertex") == said


def test_a_service_that_refuses_every_clip_is_not_asked_for_all_of_them(few: Compared) -> None:
    few.server.longest_s = -2.0
    said = few.ask("vertex")
    assert said.startswith("vertex: it refuses every clip; t, 0 to 0.5 s: Vertex AI refuses the clip (400")
    assert few.server.attempts < 8
    assert few.kept("vertex").is_empty()  # they are asked for again, when the service is put right


def test_a_clip_that_the_film_has_not_is_said_and_harms_no_other(few: Compared) -> None:
    few.lake.write("clip_labels", {"task": "clip_tone"}, labels([0.5] * 14), "3" * 32)
    assert few.ask("vertex") == ""
    assert few.kept("vertex")["reason"].to_list() == [None] * 12 + ["no picture of the film lies in it"] * 2
    assert len(few.server.paid) == 12


def test_a_drop_that_changed_meanwhile_is_left_for_later(few: Compared) -> None:
    (few.landing / "titles" / "t" / "film.en.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    os.utime(few.landing / "titles" / "t" / "film.en.srt", (0, 0))
    assert few.ask("vertex").startswith("t: its drop has changed since it was registered")
    assert not few.server.attempts


def test_without_an_encoder_there_is_nothing_to_make_and_nothing_waits_for_it(few: Compared) -> None:
    catalogue = few.catalogue()
    stage = all_stages().by_table["clip_embeddings"]
    assert not catalogue.is_due(stage)
    assert "set MEDIAFM_CLIP_ENCODERS" in (without_encoders(catalogue) or "")
    assert "clip_embeddings" not in missing_input(catalogue, all_stages().by_table["probe_metrics"])


def test_other_encoders_are_probed_beside_our_own_until_they_are_switched_off(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDIAFM_CLIP_ENCODERS", "mean_frames")
    assert main(["materialize", "--no-train"]) == 0
    newest = {"encoder_version": max(places.lake.data_versions("probe_metrics"))[0]}
    made = of_clips(places, newest)
    assert set(made["representation"]) == {*REPRESENTATIONS, "mean_frames"}
    assert made.group_by("task").agg(pl.struct("n_clips", "n_titles").n_unique())["n_clips"].to_list() == [1] * 5
    capsys.readouterr()
    assert main(["materialize", "--no-train"]) == 0
    assert "nothing had changed, no step was run" in capsys.readouterr().out
    monkeypatch.delenv("MEDIAFM_CLIP_ENCODERS")
    assert main(["materialize", "--no-train"]) == 0
    assert set(of_clips(places, newest)["representation"]) == {*REPRESENTATIONS}


def of_clips(places: Places, newest: dict[str, str]) -> pl.DataFrame:
    return places.lake.read("probe_metrics", **newest).filter(pl.col("task") != SCENES)


@pytest.mark.parametrize(("value", "names"), [("", []), ("mean_frames", ["mean_frames"]), (" nova,nova ", ["nova"])])
def test_encoders_are_named_with_commas_between_them(value: str, names: list[str]) -> None:
    configured: Any = resources({"MEDIAFM_CLIP_ENCODERS": value})["clip_encoders"]
    assert configured.names == names


def test_an_encoder_that_there_is_not_is_refused_with_its_variable() -> None:
    with pytest.raises(ConfigurationError, match=r"MEDIAFM_CLIP_ENCODERS is 'vertex,magic': it must be one of mean_"):
        resources({"MEDIAFM_CLIP_ENCODERS": "vertex,magic"})
