"""Whoever owns the graph, and knows README and docs/operating.md only, gets four answers by the command and by
GraphQL: what is fresh, stale or failed and why; what runs next and what it takes; whether the newest encoder is
better; what a title looks like to the machine. Of the titles two are broken, one was changed, one has just landed."""

import os
import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster_graphql.test.utils import execute_dagster_graphql

from mediafm_assets.commands.cli import main
from mediafm_assets.definitions import defs
from tests.mediafm_assets.conftest import Drop, Places

CHANGED = "demo-01-silent-river"


def an_hour_old(folder: Path) -> None:
    for file in folder.iterdir():
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 3600))


@pytest.fixture
def catalogue(places: Places, drop: Drop, capsys: pytest.CaptureFixture[str]) -> Places:
    titles = places.landing / "titles"
    film = titles / CHANGED / "film.mp4"
    (drop(places.landing, "zz-no-film", None) / "film.mp4").write_bytes(b"not a film")
    (drop(places.landing, "zz-no-json", film) / "title.json").write_text("no JSON")
    drop(places.landing, "zz-new", film)
    subtitle = titles / CHANGED / "film.en.srt"
    subtitle.write_text(subtitle.read_text() + "\n\n99\n00:00:01,000 --> 00:00:02,000\nWhat was that?\n")
    for folder in ("zz-no-film", "zz-no-json", CHANGED):
        an_hour_old(titles / folder)
    assert main(["materialize", "--title", "zz-no-film"]) == 1
    capsys.readouterr()
    return places


REASONS = (
    r"zz-no-film: titles: film\.mp4 cannot be opened as a film",
    r"zz-no-json: landing: title\.json is not JSON",
    rf"{CHANGED}: .*subtitle film\.en\.srt changed",
    r"zz-new: landed on .* UTC and not made yet",
)
NEXT = r"\d+ titles, \d+ steps: .*(s|min|h).*, \d.* GPU hours, .* MB, 0 tokens \(\$0\.00\)"


def test_the_command_answers_the_four_questions(catalogue: Places, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert main([*arguments]) == 0
        return capsys.readouterr().out

    status = said("status", "--why")
    assert "9 titles: 5 with nothing left to make, 2 to be made, 2 failed" in status
    for reason in REASONS:
        assert re.search(reason, status), reason
    assert re.search(NEXT, said("plan"))
    encoders = said("encoders")
    assert " in use " in encoders
    assert "by gate: it is the first encoder for its embedding spaces" in encoders
    assert "scene" in said("show", CHANGED)


QUERY = """
query($asset: AssetKeyInput!, $partitions: [String!]) {
  assetNodeOrError(assetKey: $asset) { ... on AssetNode {
    assetMaterializations(limit: 1, partitions: $partitions) { metadataEntries {
      label
      ... on MarkdownMetadataEntry { mdStr }
      ... on TableMetadataEntry { table { records } }
    } }
    assetChecksOrError { ... on AssetChecks { checks {
      name
      executionForLatestMaterialization { evaluation { success description } }
    } } }
  } }
}
"""


def test_graphql_answers_the_four_questions(catalogue: Places) -> None:
    with dg.DagsterInstance.get() as instance:
        job = defs().resolve_implicit_global_asset_job_def()
        assert job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey("freshness")]).success
        with WorkspaceProcessContext(
            instance, ModuleTarget("mediafm_assets.definitions", None, None, None)
        ) as workspace:

            def page(asset: str, *partitions: str) -> tuple[dict[str, Any], dict[str, Any]]:
                """What the last materialisation said, by label, and what each check says."""
                asked = {"asset": {"path": [asset]}, "partitions": list(partitions) or None}
                answer = execute_dagster_graphql(workspace.create_request_context(), QUERY, asked)
                node = answer.data["assetNodeOrError"]
                (event,) = node["assetMaterializations"]
                checks = {check["name"]: check for check in node["assetChecksOrError"]["checks"]}
                said = {name: check["executionForLatestMaterialization"] for name, check in checks.items()}
                return {entry["label"]: entry for entry in event["metadataEntries"]}, said

            entries, _ = page("freshness")
            _, of_promotions = page("encoder_promotions")
            shots, _ = page("shots", CHANGED)
    (records,) = [entry["table"]["records"] for label, entry in entries.items() if label.startswith("not fresh, ")]
    for reason in REASONS:
        title, _, why = reason.partition(": ")
        assert any(title in record and re.search(why, record) for record in records), reason
    assert re.search(NEXT, entries["next"]["mdStr"])
    judged = of_promotions["newest_encoder_is_no_worse"]["evaluation"]
    assert judged["success"]
    assert "it is the first encoder for its embedding spaces" in judged["description"]
    assert any("data:image/" in (entry.get("mdStr") or "") for entry in shots.values())
