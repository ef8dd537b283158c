"""What will be made, how long it takes and what it costs, beside what is then made, takes and costs."""

import json
import os
import shutil
from typing import Any

import polars as pl
import pytest

from mediafm_assets.commands.cli import main
from mediafm_assets.graph import forecast
from mediafm_assets.graph.forecast import History
from mediafm_assets.graph.versions import Catalogue
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages
from resources.encoders.text.openai_service import token_counter
from resources.lake import typed_rows
from resources.machine import machine
from tests.mediafm_assets.conftest import Drop, Places
from tests.resources.openai_server import GOOD_KEY, OpenAIServer, openai_server


def titles_in(places: Places) -> list[str]:
    return sorted(path.name for path in (places.landing / "titles").iterdir())


def planned(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["plan", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def books(places: Places) -> pl.DataFrame:
    return places.lake.read_whole("costs")


def made_by(places: Places, arguments: list[str]) -> pl.DataFrame:
    """What the command booked."""
    before = books(places)["run_id"].implode()
    assert main(arguments) == 0
    return books(places).filter(~pl.col("run_id").is_in(before))


def titles_and_stages(rows: pl.DataFrame) -> dict[str, int]:
    """How many titles of each stage."""
    return dict(rows.group_by("stage").agg(pl.col("title_id").n_unique()).rows())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> OpenAIServer:
    """The text encoder's service, which counts tokens as its clients can."""
    with openai_server() as running:
        running.count = token_counter("text-embedding-3-large")
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        monkeypatch.setenv("OPENAI_API_KEY", GOOD_KEY)
        monkeypatch.setenv("MEDIAFM_TEXT_ENCODER", "openai")
        yield running


def test_nothing_is_planned_for_a_catalogue_that_is_up_to_date(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan"]) == 0
    assert capsys.readouterr().out == "nothing to do: everything is up to date\n"


def test_what_is_planned_is_what_is_made_though_a_training_follows(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(places.landing / "titles" / titles_in(places)[0], places.landing / "titles" / "zz-new")
    files = places.files()
    plan = planned(capsys)
    assert places.files() == files, "a plan changes nothing"
    made = made_by(places, ["materialize"])
    assert {"encoder", "contextual_embeddings", "probe_metrics"} <= set(made["stage"])
    of_titles = {stage: max(total["titles"], 1) for stage, total in plan["stages"].items()}
    assert of_titles == titles_and_stages(made)
    assert plan["total"]["titles"] == len(titles_in(places))


def test_the_first_title_after_a_promotion_is_timed_by_what_that_took(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    assert books(places).filter(stage="contextual_embeddings").is_empty()
    shutil.copytree(places.landing / "titles" / titles_in(places)[0], places.landing / "titles" / "zz-new")
    plan = planned(capsys)
    contextual = plan["stages"]["contextual_embeddings"]
    assert (contextual["titles"], contextual["untimed"]) == (1, 0)
    assert contextual["seconds"] > 0
    assert not [remark for remark in plan["remarks"] if "contextual_embeddings" in remark]


def test_what_is_planned_of_another_configuration_is_what_is_made(
    places: Places, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIAFM_DETECTOR", "adaptive")
    plan = planned(capsys)
    made = made_by(places, ["materialize"])
    assert {stage: max(total["titles"], 1) for stage, total in plan["stages"].items()} == titles_and_stages(made)
    assert "Seconds of shots are those of another configuration or code version." in plan["remarks"]


def test_tokens_and_dollars_are_planned_to_the_last_one(
    places: Places, server: OpenAIServer, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(capsys)
    assert not server.attempts, "a plan asks no service"
    made = made_by(places, ["materialize", "--no-train"])
    sent = sum(server.count(text) for request in server.requests for text in request)
    assert plan["total"]["tokens"] == made["tokens"].sum() == made["planned_tokens"].sum() == sent > 0
    assert plan["total"]["dollars"] == pytest.approx(made["dollars"].sum(), rel=1e-9)
    assert made["planned_dollars"].sum() == pytest.approx(made["dollars"].sum(), rel=1e-9)
    for title in titles_in(places):
        assert plan["titles"][title]["tokens"] == made.filter(title_id=title)["tokens"].sum()


def test_texts_that_were_paid_for_are_free(
    places: Places, server: OpenAIServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["materialize", "--no-train"]) == 0
    title = titles_in(places)[0]
    places.lake.delete("text_embeddings", {"title_id": title})
    plan = planned(capsys)
    assert plan["stages"]["text_embeddings"]["titles"] == 1
    assert plan["total"]["tokens"] == 0
    made = made_by(places, ["materialize", "--no-train"]).filter(stage="text_embeddings")
    assert made["tokens"].item() == 0
    assert made["cached_share"].item() == 1


def test_words_of_a_film_whose_shots_are_not_known_are_told_as_about_right(
    places: Places, server: OpenAIServer, drop: Drop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["materialize", "--no-train"]) == 0
    source = places.landing / "titles" / titles_in(places)[0]
    folder = drop(places.landing, "zz-new", source / "film.mp4", synopsis="Nobody has told this before.")
    words = folder / "film.en.srt"
    words.write_text("1\n00:00:00,100 --> 00:00:01,000\nHello, who are you.\n")
    os.utime(words, (0, 0))
    plan = planned(capsys)
    assert not plan["stages"]["text_embeddings"]["exact"]
    assert plan["stages"]["text_embeddings"]["tokens"] == server.count("Hello, who are you.")
    assert any("not exact" in remark for remark in plan["remarks"])


def test_seconds_come_of_this_machines_books_and_are_booked_beside_what_it_took(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    title = titles_in(places)[0]
    places.lake.delete("fused_embeddings", {"title_id": title})
    plan = planned(capsys)
    expected = plan["stages"]["fused_embeddings"]
    assert expected["untimed"] == 0
    assert expected["seconds"] > 0
    assert expected["bytes"] > 0
    made = made_by(places, ["materialize", "--no-train"]).filter(stage="fused_embeddings")
    assert made["planned_seconds"].item() == pytest.approx(expected["seconds"], rel=1e-6)


@pytest.mark.parametrize(("here", "words"), [("another, 64 cores", f"the books are of {machine()}"), (None, "yet.")])
def test_without_history_of_this_machine_seconds_are_not_known_and_it_says_so(
    places: Places,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    here: str | None,
    words: str,
) -> None:
    if here:
        monkeypatch.setattr(forecast, "machine", lambda: here)
    else:
        shutil.rmtree(places.root / "lake" / "costs")
    places.lake.delete("fused_embeddings", {"title_id": titles_in(places)[0]})
    plan = planned(capsys)
    assert plan["total"]["untimed"] == plan["total"]["steps"]
    assert any("no history of this machine" in remark and words in remark for remark in plan["remarks"])


def test_an_hour_of_film_counts_the_same_in_one_film_and_in_many_trailers(finished: Places, places: Places) -> None:
    stage = next(stage for stage in all_stages().all if stage.name == "shots")
    code = books(finished).filter(stage="shots")["code"][0]
    shutil.rmtree(places.root / "lake" / "costs")
    lengths_and_seconds = [(3600.0, 360.0), (30.0, 30.0), (30.0, 30.0), (30.0, 30.0)]
    rows = [
        {
            "title_id": f"t{number}",
            "stage": "shots",
            "made": True,
            "seconds": seconds,
            "gpu_seconds": 0.0,
            "film_s": film_s,
            "bytes": 0,
            "tokens": 0,
            "machine": machine(),
            "code": code,
            "materialised_at": books(finished)["materialised_at"][0],
        }
        for number, (film_s, seconds) in enumerate(lengths_and_seconds)
    ]
    places.lake.write("costs", {"run_id": "r", "step": "title"}, typed_rows("costs", rows), "v")
    history = History(Catalogue(places.lake, resources(), all_stages()))
    assert history.rate(stage).seconds == pytest.approx(0.1)


def test_folders_that_cannot_be_used_are_counted_apart(
    places: Places, drop: Drop, capsys: pytest.CaptureFixture[str]
) -> None:
    drop(places.landing, "no-film", None)
    plan = planned(capsys)
    assert plan["total"]["steps"] == 0
    assert plan["remarks"] == [
        "1 folders of the landing zone cannot be used and 0 are still arriving; none is counted."
    ]


def test_a_landing_zone_that_is_not_there_is_named(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDIAFM_LANDING", "/no/such/folder")
    assert main(["plan"]) == 2
    assert "MEDIAFM_LANDING" in capsys.readouterr().err
