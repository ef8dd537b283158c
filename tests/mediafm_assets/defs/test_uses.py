"""What the vectors are for, on a finished lake: scenes, breaks, tags, highlights, titles alike, the search index."""

import json
import shutil

import numpy as np
import polars as pl
import pytest

from mediafm_assets.commands.cli import main
from mediafm_assets.defs.scenes import ad_breaks
from mediafm_assets.defs.tags import TAGS, highlights, tags
from mediafm_assets.settings import HighlightLength
from model.tagging import sigmoid
from model.tasks import TASKS
from resources.lake import TABLES, vectors, violations
from resources.lake.tables import TITLE_PARTS
from resources.search_index import SearchIndex, index_uri
from tests.mediafm_assets.conftest import Places
from tests.mediafm_assets.title_runs import BIAS, catalogue_of, made, run_of, titles_of, write_usable_probes

OF_TITLES = ("scenes", "ad_breaks", "title_embeddings", "tags", "highlights")
OF_ALL = ("title_neighbours", "title_metrics", "probes", "boundary_head")


@pytest.mark.parametrize("table", [*OF_TITLES, *OF_ALL])
def test_a_table_has_rows_for_each_title_and_keeps_its_contract(finished: Places, table: str) -> None:
    partitions = finished.lake.data_versions(table)
    rows = pl.concat(
        finished.lake.read(table, **dict(zip(TABLES[table].partition_by, key, strict=True))) for key in partitions
    )
    if "title_id" in (column.name for column in TABLES[table].columns):
        assert sorted(rows["title_id"].unique()) == titles_of(finished)
    for key in partitions:
        of_key = finished.lake.read(table, **dict(zip(TABLES[table].partition_by, key, strict=True)))
        assert violations(table, of_key) == []


def test_scenes_hold_every_shot_once_in_order_with_their_times(finished: Places) -> None:
    for title_id in titles_of(finished):
        shots, scenes = finished.lake.read("shots", title_id=title_id), finished.lake.read("scenes", title_id=title_id)
        spans = scenes.select("first_shot", "last_shot").rows()
        assert [shot for first, last in spans for shot in range(first, last + 1)] == shots["shot_index"].to_list()
        assert scenes["start_s"].to_list() == [shots["start_s"][first] for first, _ in spans]
        assert scenes["end_s"].to_list() == [shots["end_s"][last] for _, last in spans]
        assert scenes["boundary_score"][0] == 0
        assert scenes["boundary_score"].is_between(0, 1).all()
        assert np.linalg.norm(vectors(scenes), axis=1) == pytest.approx(1, abs=1e-5)


def test_breaks_lie_where_scenes_begin_best_first_or_say_why_there_are_none(finished: Places) -> None:
    for title_id in titles_of(finished):
        scenes, breaks = (finished.lake.read(table, title_id=title_id) for table in ("scenes", "ad_breaks"))
        if breaks["rank"].to_list() == [0]:
            assert len(scenes) == 1
            assert breaks["reason"][0]
            continue
        assert breaks["rank"].to_list() == list(range(1, len(breaks) + 1))
        assert set(breaks["shot_index"]) <= set(scenes["first_shot"]) - {0}
        assert breaks["score"].is_sorted(descending=True)
        assert breaks["reason"].null_count() == len(breaks)


def test_a_title_of_one_scene_has_no_break_and_a_reason(places: Places) -> None:
    title_id = titles_of(places)[0]
    stored = places.lake.read("scenes", title_id=title_id)
    whole = stored.head(1).with_columns(last_shot=stored["last_shot"][-1], end_s=stored["end_s"][-1])
    places.lake.write("scenes", {"title_id": title_id}, whole.drop("title_id", "data_version"), "a" * 32)
    (row,) = made(ad_breaks, places, title_id).rows(named=True)
    assert (row["rank"], row["time_s"], row["before"], row["after"]) == (0, None, [], [])
    assert row["reason"] == "the title is a single scene"


def test_each_task_tags_or_says_why_it_does_not(finished: Places) -> None:
    probes = finished.lake.read_whole("probes")
    for title_id in titles_of(finished):
        rows = finished.lake.read("tags", title_id=title_id)
        assert set(rows["task"]) == set(TAGS)
        for task in TAGS:
            of_task, usable = rows.filter(task=task), probes.filter(pl.col("task") == task, pl.col("usable"))
            if usable.is_empty():
                (row,) = of_task.rows(named=True)
                assert (row["scope"], row["label"], row["probability"], row["shots"]) == ("title", None, None, [])
                assert row["reason"]
            else:
                assert set(of_task["label"]) == set(usable["label"])
                assert of_task["reason"].null_count() == len(of_task)


def test_probes_are_usable_or_say_why_not(finished: Places) -> None:
    probes = finished.lake.read_whole("probes")
    assert set(probes["task"]) == {name for name, task in TASKS.items() if task.label != "score"}
    assert probes.filter("usable")["reason"].null_count() == probes["usable"].sum()
    assert probes.filter(~pl.col("usable"))["reason"].null_count() == 0


def test_a_usable_probe_tags_the_title_and_windows_with_the_shots_that_argue_for_it(places: Places) -> None:
    title_id = titles_of(places)[0]
    shots = run_of(places).read("contextual_embeddings", title_id)
    matrix = vectors(shots)
    weights = write_usable_probes(places, ("clip_tone", "calm"))
    rows = made(tags, places, title_id).filter(task="clip_tone")
    assert set(rows["label"]) == {"calm"}
    windows = rows.filter(scope="window").sort("first_shot")
    spans = windows.select("first_shot", "last_shot").rows()
    assert [shot for first, last in spans for shot in range(first, last + 1)] == list(range(len(matrix)))
    assert rows.filter(scope="title").select("first_shot", "last_shot").rows() == [(0, len(matrix) - 1)]
    for row in rows.iter_rows(named=True):
        of_row = matrix[row["first_shot"] : row["last_shot"] + 1]
        said = sigmoid(np.array([of_row.mean(axis=0) @ weights + BIAS]))[0]
        assert row["probability"] == pytest.approx(said, abs=1e-5)
        strongest = row["first_shot"] + np.argsort(-of_row[:, 0], kind="stable")[:3]
        assert row["shots"] == strongest.tolist()
        assert row["start_s"] == shots["start_s"][row["first_shot"]]
        assert row["end_s"] == shots["end_s"][row["last_shot"]]
    assert set(rows["probe_version"]) == {"b" * 32}


def test_highlights_share_no_shot_and_come_best_first_or_say_why_there_are_none(places: Places) -> None:
    title_id = titles_of(places)[0]
    write_usable_probes(places, ("clip_retrieval", "clip_retrieval"))
    rows = made(highlights, places, title_id)
    assert rows["rank"].to_list() == list(range(1, len(rows) + 1))
    assert rows["score"].is_sorted(descending=True)
    shown = [shot for row in rows.iter_rows(named=True) for shot in range(row["first_shot"], row["last_shot"] + 1)]
    assert len(shown) == len(set(shown))
    write_usable_probes(places, ("clip_tone", "calm"))  # and none of clip_retrieval
    (row,) = made(highlights, places, title_id).rows(named=True)
    assert (row["rank"], row["first_shot"], row["reason"]) == (0, None, "clip_retrieval has no labelled clips")


def test_highlights_have_the_length_that_is_asked_for(places: Places) -> None:
    write_usable_probes(places, ("clip_retrieval", "clip_retrieval"))
    run = run_of(places)
    run.resources.highlight_length = HighlightLength(length_s=6)
    ((_table, rows),) = highlights(run, titles_of(places)[0])
    lengths = rows["end_s"] - rows["start_s"]
    assert len(rows) > 1
    assert lengths.is_between(0.75 * 6, 1.5 * 6).all()


def test_title_embeddings_are_their_parts_joined(finished: Places) -> None:
    for title_id in titles_of(finished):
        (row,) = finished.lake.read("title_embeddings", title_id=title_id).rows(named=True)
        assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-5)
        assert row["shots"] == len(finished.lake.read("shots", title_id=title_id))


def test_neighbours_are_all_other_titles_nearest_first_and_never_the_title_itself(finished: Places) -> None:
    rows = finished.lake.read_whole("title_neighbours")
    for title_id in titles_of(finished):
        own = rows.filter(title_id=title_id).sort("rank")
        assert sorted(own["neighbour_id"]) == [other for other in titles_of(finished) if other != title_id]
        assert own["score"].is_sorted(descending=True)
        carried = own.select("contextual", "video", "audio", "text", "metadata").sum_horizontal()
        assert carried.to_list() == pytest.approx(own["score"].to_list(), abs=1e-6)


def test_title_vectors_are_judged_part_by_part_or_say_that_there_are_too_few_titles(finished: Places) -> None:
    rows = finished.lake.read_whole("title_metrics")
    parts = ("embedding", *TITLE_PARTS, "chance")
    assert set(rows.select("task", "representation").rows()) == {
        (task, part) for task in ("title_genre", "title_series") for part in parts
    }
    assert set(rows["n_titles"]) == {6}
    assert set(rows["n_works"]) == {5}, "two of the six are of a series"
    assert rows["value"].null_count() == len(rows)
    assert rows["note"].null_count() == 0


def test_another_encoder_makes_stale_what_is_made_of_contextual_vectors(places: Places) -> None:
    title_id = titles_of(places)[0]
    lake = places.lake
    assert list(catalogue_of(places).stale(title_id)) == []
    (older,) = lake.data_versions("encoder")
    newer = {"encoder_version": "99990101T000000Z-aaaaaaaa"}
    trained = lake.read("encoder", encoder_version=older[0]).drop("encoder_version", "data_version")
    lake.write("encoder", newer, trained, "c" * 32)
    assert list(catalogue_of(places).stale(title_id)) == [], "it is not in use yet"
    catalogue = catalogue_of(places).with_encoder(newer["encoder_version"])
    assert set(catalogue.stale(title_id)) >= {"contextual_embeddings", "title_embeddings"}
    assert not {"fused_embeddings", "search_index"} & set(catalogue.stale(title_id))
    assert catalogue.waits_for("tags") == catalogue.waits_for("highlights") == "probes"
    assert catalogue.waits_for("scenes") == "boundary_head"


def test_a_new_encoder_in_use_is_followed_by_everything_that_is_made_of_its_vectors(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = {**json.loads(places.environment["MEDIAFM_ENCODER_OVERRIDES"]), "max_steps": 3, "fixed_steps": 3}
    monkeypatch.setenv("MEDIAFM_ENCODER_OVERRIDES", json.dumps(overrides))
    main(["materialize", "--train"])
    newest = max(version for (version,) in places.lake.data_versions("encoder"))
    assert len(places.lake.data_versions("encoder")) == 2
    assert main(["encoders", "embed", newest]) == 0  # in case the gate has held it back
    assert main(["encoders", "promote", newest, "--by", "ada", "--why", "a trial"]) == 0
    assert main(["materialize", "--no-train"]) == 0
    for table in ("scenes", "title_embeddings"):
        assert set(places.lake.read_whole(table)["encoder_version"]) == {newest}
    for table in OF_ALL:
        assert (newest,) in places.lake.data_versions(table)
    probed = places.lake.data_versions("probes")[(newest,)]
    for table in ("tags", "highlights"):
        assert set(places.lake.read_whole(table)["probe_version"]) == {probed}


def test_the_index_holds_every_title_in_the_version_of_its_vectors(finished: Places) -> None:
    catalogue = catalogue_of(finished)
    index = SearchIndex.there(index_uri(finished.lake.uri), catalogue.fused_space())
    assert index is not None
    assert index.stored() == {title: catalogue.made_now("search_index", title) for title in titles_of(finished)}
    assert len(index) == len(finished.lake.read_whole("fused_embeddings"))


def test_looking_in_another_configuration_leaves_the_index_as_it_is(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = SearchIndex.there(index_uri(places.lake.uri), None)
    assert index is not None
    stored = index.stored()
    monkeypatch.setenv("MEDIAFM_FUSION", "as_published")
    assert main(["status"]) == 0
    assert main(["plan"]) == 0
    after = SearchIndex.there(index_uri(places.lake.uri), None)
    assert after is not None
    assert after.stored() == stored


def test_a_deleted_index_is_made_again_and_nothing_else(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    folder, files = places.root / "lake" / "search_index", places.files()
    index = SearchIndex.there(str(folder), None)
    assert index is not None
    before = index.stored()
    shutil.rmtree(folder)
    assert main(["materialize"]) == 0
    again = SearchIndex.there(str(folder), None)
    assert again is not None
    assert again.stored() == before
    assert places.files() == files
    capsys.readouterr()
    assert main(["materialize"]) == 0
    assert "nothing had changed, no step was run" in capsys.readouterr().out
