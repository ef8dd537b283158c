"""What a run took stands in `costs`, once, whatever became of the run."""

from pathlib import Path

import polars as pl
import pytest

from mediafm_assets.commands.cli import main
from mediafm_assets.graph import costs
from mediafm_assets.graph.costs import Books
from mediafm_assets.graph.versions import Catalogue
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages
from resources.machine import machine
from tests.mediafm_assets.conftest import Places
from tests.resources.openai_server import OpenAIServer, tokens_of


def titles_in(places: Places) -> list[str]:
    return sorted(path.name for path in (places.landing / "titles").iterdir())


def booked(places: Places) -> pl.DataFrame:
    return places.lake.read_whole("costs")


def test_every_stage_of_every_title_is_booked_once_with_what_it_took(finished: Places) -> None:
    of_titles = booked(finished).filter(pl.col("title_id").is_not_null())
    wanted = {(title, stage.name) for title in titles_in(finished) for stage in all_stages().of_scope("title")}
    # A new encoder reads all titles in one go, which is booked as that.
    wanted -= {(title, "contextual_embeddings") for title in titles_in(finished)}
    assert sorted(of_titles.select("title_id", "stage").rows()) == sorted(wanted)
    assert of_titles["made"].all()
    assert of_titles["seconds"].min() > 0
    written = of_titles.filter(pl.col("stage") != "search_index")
    assert written["bytes"].min() > 0
    lengths = dict(finished.lake.read_whole("titles").select("title_id", "duration_s").rows())
    assert all(lengths[title] == film_s for title, film_s in of_titles.select("title_id", "film_s").rows())
    assert set(of_titles["machine"]) == {machine()}


def test_what_is_made_once_for_all_titles_is_booked_with_the_length_of_all_films(finished: Places) -> None:
    whole = booked(finished).filter(pl.col("title_id").is_null())
    assert {"encoder", "encoder_promotions", "probe_metrics"} <= set(whole["stage"])
    assert whole.filter(stage="encoder")["film_s"].item() == finished.lake.read_whole("titles")["duration_s"].sum()


def test_a_call_with_nothing_to_do_books_nothing(places: Places) -> None:
    before = booked(places)
    assert main(["materialize"]) == 0
    assert booked(places).equals(before)


def test_tokens_and_dollars_are_those_that_the_service_counted(places: Places, server: OpenAIServer) -> None:
    assert main(["materialize", "--no-train"]) == 0
    sent = [text for request in server.requests for text in request]
    rows = booked(places).filter(pl.col("code").str.contains("openai"))
    assert rows["tokens"].sum() == sum(map(tokens_of, sent)) > 0
    assert rows["dollars"].sum() == pytest.approx(sum(map(tokens_of, sent)) * 0.13 / 1e6)
    assert set(rows["stage"]) == {"text_embeddings", "global_embeddings"}


def test_what_failed_is_booked_with_what_was_paid_for_it(
    places: Places, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = titles_in(places)[0]
    monkeypatch.setattr("resources.encoders.text.openai_service.MOST_INPUTS", 1)  # so that a failure has others before
    server.faults = ["", *["dimension"] * 50]
    assert main(["materialize", "--no-train", "--title", title]) == 1
    row = booked(places).filter(pl.col("code").str.contains("openai") & (pl.col("title_id") == title))
    assert row["made"].to_list() == [False]
    assert row["tokens"].item() == sum(tokens_of(text) for request in server.requests for text in request) > 0
    assert row["bytes"].item() == 0


def test_a_step_that_books_again_and_again_books_nothing_twice(tmp_path: Path, places: Places) -> None:
    catalogue = Catalogue(places.lake, resources(), all_stages())
    stage = all_stages().of_scope("title")[0]
    books = Books(catalogue, "another-run", "title", {})

    def book(title: str) -> None:
        with books.measured(stage, title, lambda table: catalogue.partition(table, title)):
            pass
        books.write()

    for title in titles_in(places)[:2]:
        book(title)
    rows = booked(places).filter(run_id="another-run")
    assert sorted(rows["title_id"]) == titles_in(places)[:2]
    books.write()
    assert booked(places).filter(run_id="another-run").equals(rows)


def test_a_long_run_books_before_it_ends(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "BOOKED_EVERY_S", 0.0)
    seen: list[int] = []
    written = Books.write

    def write(self: Books) -> None:
        written(self)
        seen.append(len(places.lake.read("costs", run_id=self.run_id)))

    monkeypatch.setattr(Books, "write", write)
    assert main(["materialize", "--no-train", "--force", "fused_embeddings"]) == 0
    titles = len(titles_in(places))
    assert seen == [*range(1, titles + 1), titles]
