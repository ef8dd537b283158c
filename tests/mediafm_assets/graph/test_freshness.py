"""What is fresh and why the rest is not: by the command, in the table, and by the webserver's GraphQL on a real
instance. Of six titles and three more, one is broken, one was changed and one has just landed."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster_graphql.test.utils import execute_dagster_graphql

from mediafm_assets.commands.cli import main
from mediafm_assets.definitions import defs
from mediafm_assets.graph.freshness import FRESHNESS, UNSEEN
from mediafm_assets.graph.sensors import automation_sensor
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages
from tests.mediafm_assets.conftest import Drop, Places

BY_TEXT = {"text_embeddings", "ad_breaks"}
"""What reads the subtitles themselves."""
BEHIND_TEXT = {
    *("fused_embeddings", "contextual_embeddings", "scenes", "tags", "search_index", "highlights", "title_embeddings")
}


def look_an_hour_old(folder: Path) -> None:
    for file in folder.iterdir():
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 3600))


def change_subtitle(places: Places) -> str:
    """Change a line of the first title's subtitle; the title."""
    folder = min((places.landing / "titles").iterdir())
    subtitle = folder / "film.en.srt"
    subtitle.write_text(subtitle.read_text() + "\n\n99\n00:00:01,000 --> 00:00:02,000\nWhat was that?\n")
    os.utime(subtitle, (subtitle.stat().st_atime, subtitle.stat().st_mtime - 1800))
    return folder.name


@pytest.fixture
def mixed(places: Places, drop: Drop, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The titles by what is the matter with them, after the command has tried the broken one alone."""
    film = min((places.landing / "titles").iterdir()) / "film.mp4"
    (drop(places.landing, "zz-broken", None) / "film.mp4").write_bytes(b"not a film")
    look_an_hour_old(places.landing / "titles" / "zz-broken")
    drop(places.landing, "zz-new", film)
    changed = change_subtitle(places)
    assert main(["materialize", "--title", "zz-broken"]) == 1
    capsys.readouterr()
    return {"broken": "zz-broken", "new": "zz-new", "changed": changed}


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["status", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def rows_of(places: Places, title: str) -> dict[str, tuple[str, str]]:
    """State and reason of each table, as the stored table has them."""
    rows = places.lake.read_whole(FRESHNESS).filter(title_id=title)
    return {table: (state, reason) for table, state, reason in rows.select("table", "state", "reason").iter_rows()}


def tick(instance: dg.DagsterInstance, cursor: str | None) -> Any:
    with dg.build_sensor_context(instance, cursor=cursor, definitions=defs(), resources=resources()) as context:
        return automation_sensor(all_stages()).evaluate_tick(context)


def test_a_finished_catalogue_is_fresh_with_the_run_and_the_seconds_that_each_table_took(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(capsys)
    numbers = {line.split()[0]: line.split()[1:] for line in lines if line and not line.startswith(" ")}
    assert all(numbers[table] == ["6"] for table in all_stages().title_tables)
    assert "6 titles: 6 with nothing left to make, 0 to be made, 0 failed" in lines
    title = min((places.landing / "titles").iterdir()).name
    rows = places.lake.read_whole(FRESHNESS).filter(title_id=title)
    assert set(rows["state"]) == {"fresh"}
    assert (rows["stored_version"] == rows["wanted_version"]).all()
    by_promotion = {"contextual_embeddings"}  # made with all others, in one go
    assert set(rows.filter(pl.col("seconds").is_null())["table"]) == by_promotion
    assert rows["seconds"].min() > 0
    runs = set(rows["run_id"])
    with dg.DagsterInstance.get() as instance:
        assert {run for run in runs if instance.has_run(run)} == runs


def test_the_command_says_what_is_not_fresh_and_why_each_reason_once(
    mixed: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(capsys, "--why")
    assert "8 titles: 5 with nothing left to make, 2 to be made, 1 failed" in lines
    failed, *others = [line for line in lines if line.startswith(("failed: ", "stale: ", "missing: "))]
    assert failed.startswith("failed: titles, shots, ")
    assert " of zz-broken: titles: film.mp4 cannot be opened as a film " in failed
    stale, missing = others
    assert stale.startswith("stale: titles, text_embeddings, ")
    assert stale.endswith(f" of {mixed['changed']}: subtitle film.en.srt changed")
    assert " of zz-new: landed on " in missing
    assert missing.endswith(" UTC and not made yet")


def test_a_changed_subtitle_makes_stale_what_is_made_from_it_and_nothing_else(
    mixed: dict[str, str], places: Places
) -> None:
    rows = rows_of(places, mixed["changed"])
    assert {table for table, (state, _) in rows.items() if state != "fresh"} == {"titles"} | BY_TEXT | BEHIND_TEXT
    assert {rows[table] for table in BY_TEXT} == {("stale", "subtitle film.en.srt changed")}
    assert rows["fused_embeddings"] == ("stale", "its text_embeddings are stale: subtitle film.en.srt changed")
    assert rows["scenes"] == ("stale", "its contextual_embeddings are stale: subtitle film.en.srt changed")


def test_a_title_is_told_table_by_table(mixed: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "--title", "zz-broken", "--why")
    assert [line.split()[:2] for line in lines[1::2]] == [[table, "failed"] for table in all_stages().title_tables]
    assert all("film.mp4 cannot be opened as a film" in line for line in lines[2::2])
    assert "film.mp4" not in "".join(said(capsys, "--title", "zz-broken"))


@pytest.mark.parametrize("title", ["nobody", "", "../titles", "\x1b[31mred"])
def test_a_title_that_nobody_knows_is_one_sentence(
    places: Places, title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--title", title]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("mediafm: there is no title ")
    assert "\x1b" not in sentence


def test_another_configuration_is_named_with_the_one_before_in_every_table_behind_it(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDIAFM_DETECTOR", "adaptive")
    monkeypatch.setenv("MEDIAFM_ASK_ABOVE", "1")
    (stale,) = [line for line in said(capsys, "--why") if line.startswith("stale: shots, shot_frames, ")]
    assert "demo-01-silent-river, demo-02-crimson-garden, demo-03-hollow-signal and 3 more: shot detector is now " in (
        stale
    )
    assert "now adaptive:" in stale
    assert ", was transnetv2:" in stale


def test_what_waits_for_an_approval_says_so_with_the_change_and_is_not_called_stale(
    places: Places, drop: Drop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drop(places.landing, "zz-new", min((places.landing / "titles").iterdir()) / "film.mp4")
    monkeypatch.setenv("MEDIAFM_DETECTOR", "adaptive")
    lines = said(capsys, "--why")
    assert "7 titles: 0 with nothing left to make, 6 waiting, 1 to be made, 0 failed" in lines
    assert not [line for line in lines if line.startswith("stale: ")]
    (waits,) = [line for line in lines if line.startswith("waiting: shots, shot_frames, ")]
    assert "and 3 more: waits for an approval, by `mediafm approve` or the asset `approval`: shot detector is now " in (
        waits
    )
    with dg.DagsterInstance.get() as instance:
        first = tick(instance, None)
        title = min((places.landing / "titles").iterdir()).name
        state, reason = rows_of(places, title)["video_embeddings"]
        assert (state, reason.split(": ")[0]) == ("waiting", "its shot_frames are waiting")
        assert main(["approve"]) == 0
        tick(instance, first.cursor)
    assert rows_of(places, title)["video_embeddings"][0] == "stale"


def test_without_an_encoder_what_reads_it_waits(
    empty_places: Places, small_catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(small_catalogue, empty_places.landing, dirs_exist_ok=True)
    lines = said(capsys, "--why")
    (waiting,) = [line for line in lines if line.startswith("waiting: contextual_embeddings, ")]
    assert waiting.endswith(": needs an encoder")
    assert any(line.startswith("missing: titles, shots, ") for line in lines)


def test_looking_writes_nothing(mixed: dict[str, str], places: Places) -> None:
    before = places.files()
    assert main(["status", "--why"]) == 0
    assert places.files() == before


def test_what_was_never_seen_fresh_is_stale_for_a_reason_that_is_said_to_be_unknown(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(places.root / "lake" / FRESHNESS)
    monkeypatch.setenv("MEDIAFM_DETECTOR", "adaptive")
    assert any(UNSEEN in line for line in said(capsys, "--why"))


def test_lost_files_are_missing_until_they_are_made_again(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    title = min((places.landing / "titles").iterdir()).name
    places.lake.delete("global_embeddings", {"title_id": title})
    lines = said(capsys, "--why")
    assert f"missing: global_embeddings of {title}: its files were lost or taken away" in lines


def test_folders_that_are_no_drop_are_told_with_the_others(
    places: Places, drop: Drop, capsys: pytest.CaptureFixture[str]
) -> None:
    (drop(places.landing, "zz-arriving", None) / "title.json").unlink()
    (drop(places.landing, "zz-wrong", None) / "title.json").write_text("no JSON")
    look_an_hour_old(places.landing / "titles" / "zz-wrong")
    failed, waiting = [line for line in said(capsys, "--why") if " of zz-" in line]
    assert " of zz-wrong: landing: title.json is not JSON in UTF-8" in failed
    assert waiting.startswith("waiting: titles, shots, ")
    assert " of zz-arriving: there is no title.json yet" in waiting


def test_the_daemon_writes_the_table_when_something_changed_and_then_only(places: Places) -> None:
    with dg.DagsterInstance.get() as instance:
        first = tick(instance, None)
        version = places.lake.table_version(FRESHNESS)
        assert not tick(instance, first.cursor).asset_events
        assert places.lake.table_version(FRESHNESS) == version
        changed = change_subtitle(places)
        again = tick(instance, first.cursor)
    assert places.lake.table_version(FRESHNESS) == version + 1
    assert rows_of(places, changed)["text_embeddings"] == ("stale", "subtitle film.en.srt changed")
    checks = {e.check_name: e for e in again.asset_events if isinstance(e, dg.AssetCheckEvaluation)}
    assert checks.keys() == {"titles"} | BY_TEXT | BEHIND_TEXT
    assert checks["titles"].description == f"5 fresh, 1 stale: {changed}: subtitle film.en.srt changed"
    assert checks["titles"].passed


def test_what_recovers_is_fresh_again(mixed: dict[str, str], places: Places) -> None:
    film = places.landing / "titles" / "zz-broken" / "film.mp4"
    shutil.copyfile(places.landing / "titles" / "zz-new" / "film.mp4", film)
    look_an_hour_old(film.parent)
    assert main(["materialize", "--no-train"]) == 0
    for title in mixed.values():
        assert {state for state, _ in rows_of(places, title).values()} == {"fresh"}, title


# ---- by GraphQL ------------------------------------------------------------------------------------------------------

PAGE = """
query($asset: AssetKeyInput!) {
  assetNodeOrError(assetKey: $asset) { ... on AssetNode {
    description
    assetMaterializations(limit: 1) { metadataEntries {
      label
      ... on IntMetadataEntry { intValue }
      ... on MarkdownMetadataEntry { mdStr }
      ... on TableMetadataEntry { table { records } }
    } }
    assetChecksOrError { ... on AssetChecks { checks {
      name
      executionForLatestMaterialization { status evaluation { success severity description } }
    } } }
  } }
}
"""


@pytest.fixture
def webserver(mixed: dict[str, str]) -> Iterator[WorkspaceProcessContext]:
    with (
        dg.DagsterInstance.get() as instance,
        WorkspaceProcessContext(instance, ModuleTarget("mediafm_assets.definitions", None, None, None)) as context,
    ):
        yield context


def page_of(webserver: WorkspaceProcessContext, asset: str) -> Any:
    answer = execute_dagster_graphql(webserver.create_request_context(), PAGE, {"asset": {"path": [asset]}})
    return answer.data["assetNodeOrError"]


def test_the_page_of_the_asset_shows_numbers_and_each_reason_once_why_the_rest_is_not_fresh(
    webserver: WorkspaceProcessContext, mixed: dict[str, str]
) -> None:
    page = page_of(webserver, FRESHNESS)
    (event,) = page["assetMaterializations"]
    entries = {entry["label"]: entry for entry in event["metadataEntries"]}
    tables = len(all_stages().title_tables)
    stale = 1 + len(BY_TEXT | BEHIND_TEXT)
    numbers = {state: entries[state]["intValue"] for state in ("stale", "missing", "failed")}
    assert numbers == {"stale": stale, "missing": tables, "failed": tables}
    assert "| [text_embeddings](/assets/text_embeddings) | 5 | 1 | 1 | 1 | 0 |" in entries["tables"]["mdStr"]
    (listed,) = [entry["table"]["records"] for label, entry in entries.items() if label.startswith("not fresh, ")]
    failed, *others = [json.loads(record) for record in listed]
    assert (failed["state"], failed["titles"]) == ("failed", "zz-broken")
    assert failed["tables"] == f"titles, shots, shot_frames and {tables - 3} more"
    assert "film.mp4 cannot be opened as a film" in failed["reason"]
    assert sum("subtitle film.en.srt changed" in row["reason"] for row in others) == 1


def test_a_check_for_each_table_says_how_many_are_fresh_and_why_the_others_are_not(
    webserver: WorkspaceProcessContext, mixed: dict[str, str]
) -> None:
    checks = {check["name"]: check for check in page_of(webserver, FRESHNESS)["assetChecksOrError"]["checks"]}
    assert checks.keys() == set(all_stages().by_table)
    shots = checks["shots"]["executionForLatestMaterialization"]["evaluation"]
    assert (shots["success"], shots["severity"]) == (False, "WARN")
    assert shots["description"].startswith("6 fresh, 1 missing, 1 failed: zz-broken: titles: film.mp4 cannot be opened")
    encoder = checks["encoder"]["executionForLatestMaterialization"]["evaluation"]
    assert (encoder["success"], encoder["description"]) == (True, "1 fresh")
