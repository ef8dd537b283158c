"""Versions: those that the lakes of today hold are those that are computed, and a training is due when it should be."""

from pathlib import Path

import pytest

from mediafm_assets.defs.encoder import training_due
from mediafm_assets.graph.versions import Catalogue, drop_version, parts_of
from mediafm_assets.stages import all_stages
from resources.lake import DeltaLake
from tests.mediafm_assets.graph.small_lake import ENCODER, named_resources, small_lake, title_row, write_encoder

# Computed by the code of commit d62b07d on the same lake. Whoever changes one makes every lake stale by it: the stage's
# code has to be raised, in its own commit, for a reason.
PINNED = {
    "titles": "6be7efa00719456562a3e76d789b4f97",
    "shots": "0d40e65fe4ea38a40cbbd19bda389ce2",
    "shot_frames": "bf849a59844b488ad4a1283b38a23042",
    "video_embeddings": "e62db36685ed79f69221762a76a73063",
    "audio_embeddings": "8a7e7dbdbf8ac6a51c79c9aaf67c17e1",
    "text_embeddings": "8421c6105de61805d49eaa1bb4668851",
    "global_embeddings": "d89e52538b23e8ee858ec96ba02227d9",
    "fused_embeddings": "e3dc27da9a2f75ed2fc01a090d0023e6",
    "contextual_embeddings": "e6425d1b7cb2324b50794ad0663a2589",
    "encoder": "18a610759d52a7bd9040fc822e0dd343",
    "probe_metrics": "d75bea4f5025c9f1b2d3936af17cc230",
    "clip_labels": "2da0a6b3f6cd4cc23ae0ce282ee03410",
}


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    (tmp_path / "landing" / "labels").mkdir(parents=True)
    (tmp_path / "landing" / "labels" / "clip_tone.csv").write_text("x")
    code = all_stages().recipe["titles"].code
    lake = small_lake(tmp_path / "lake", lambda row: drop_version(row, code))
    return Catalogue(lake, named_resources(tmp_path / "landing"), all_stages())


def test_a_lake_written_before_the_stages_were_declared_is_up_to_date(catalogue: Catalogue) -> None:
    stages = catalogue.stages
    of_titles = [table for table in PINNED if table in stages.title_tables]
    found = {table: catalogue.made_now(table, "t") for table in of_titles}
    catalogue.wrote("contextual_embeddings", {"encoder_version": ENCODER, "title_id": "t"}, "5" * 32)
    found |= {name: catalogue.version_of(stages.by_table[name]) for name in ("encoder", "probe_metrics")}
    found["clip_labels"] = catalogue.version_of(stages.by_table["clip_labels"], "clip_tone")
    assert found == PINNED
    assert catalogue.stored("titles", "t") == PINNED["titles"]


@pytest.mark.parametrize(("titles", "due"), [(20, False), (21, False), (22, True), (40, True)])
def test_a_training_is_due_when_a_tenth_of_the_titles_is_new(tmp_path: Path, titles: int, due: bool) -> None:
    lake = DeltaLake(uri=str(tmp_path / "lake"))
    lake.create_tables()
    write_encoder(lake, titles=20)
    catalogue = Catalogue(lake, named_resources(tmp_path), all_stages())
    for number in range(titles):
        catalogue.wrote("fused_embeddings", {"title_id": f"t{number}"}, "2" * 32)
    assert training_due(catalogue) is due


def test_a_training_is_due_without_an_encoder_once_a_title_has_vectors(tmp_path: Path) -> None:
    lake = DeltaLake(uri=str(tmp_path / "lake"))
    lake.create_tables()
    catalogue = Catalogue(lake, named_resources(tmp_path), all_stages())
    assert not training_due(catalogue)
    catalogue.wrote("fused_embeddings", {"title_id": "t"}, "2" * 32)
    assert training_due(catalogue)


def test_what_follows_the_encoder_waits_for_one_and_nothing_else_does(tmp_path: Path) -> None:
    lake = DeltaLake(uri=str(tmp_path / "lake"))
    lake.create_tables()
    stages = all_stages()
    catalogue = Catalogue(lake, named_resources(tmp_path), stages)
    waiting = {table: catalogue.waits_for(table) for table in stages.title_tables}
    assert waiting["contextual_embeddings"] == "encoder_promotions"
    assert {waiting[table] for table in PINNED if table in waiting} == {"encoder_promotions", None}
    assert [table for table in PINNED if waiting.get(table)] == ["contextual_embeddings"]


@pytest.mark.parametrize("has_picture", [True, False])
def test_only_what_is_not_seen_is_cut_by_its_words_and_its_language(has_picture: bool) -> None:
    row = {**title_row("t"), "has_picture": has_picture}
    track = {"name": "talk.en.srt", "language": "en", "kind": None, "format": "srt", "sha256": "c" * 64}
    others = {**row, "text_tracks": [track]}, {**row, "language": "de"}, {**row, "synopsis": "Another one."}
    changed = [parts_of(other)["media"] != parts_of(row)["media"] for other in others]
    assert changed == [not has_picture, not has_picture, False]
    assert (parts_of(row)["media"] == row["media_sha256"]) is has_picture
