"""A budget stops before what would go beyond it."""

import json
from pathlib import Path

import pytest

from mediafm_assets.commands import budget as budgets
from mediafm_assets.commands.cli import main
from mediafm_assets.graph import forecast
from resources.encoders.clips import vertex
from tests.mediafm_assets.conftest import Places
from tests.resources.clip_services import VertexServer, account_file, running
from tests.resources.openai_server import OpenAIServer, tokens_of


def titles_in(places: Places) -> list[str]:
    return sorted(path.name for path in (places.landing / "titles").iterdir())


def lose(places: Places, *tables: str) -> None:
    """Make these tables of every title missing."""
    for title in titles_in(places):
        for table in tables:
            places.lake.delete(table, {"title_id": title})


@pytest.mark.parametrize("value", ["0", "-1", "much", "nan", "inf", ""])
@pytest.mark.parametrize("option", ["--budget-usd", "--budget-hours"])
def test_a_budget_that_is_no_number_above_zero_is_refused(
    empty_places: Places, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["materialize", f"{option}={value}"])
    assert ended.value.code == 2
    assert f"{option}: it must be a number above 0, not {value!r}" in capsys.readouterr().err
    assert not Path(empty_places.root, "home").exists()


def test_titles_beyond_the_dollars_are_not_started_and_the_next_call_makes_them(
    places: Places, server: OpenAIServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--json"]) == 0
    budget = json.loads(capsys.readouterr().out)["total"]["dollars"] / 2
    assert main(["materialize", "--no-train", f"--budget-usd={budget}"]) == 0
    said = capsys.readouterr().out
    spent = sum(tokens_of(text) for request in server.requests for text in request)
    assert 0 < spent * 0.13e-6 <= budget
    assert "not started: " in said
    assert "are left" in said
    assert "up to date" not in said
    assert main(["materialize", "--no-train"]) == 0
    assert "not started" not in capsys.readouterr().out


def test_titles_beyond_the_hours_are_not_started(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    lose(places, "fused_embeddings")
    assert main(["materialize", "--no-train", "--budget-hours=1e-9"]) == 0
    assert f"not started: {titles_in(places)[0]} and what comes after it" in capsys.readouterr().out
    assert not places.lake.data_versions("fused_embeddings")


def test_a_budget_that_is_large_enough_changes_nothing(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    lose(places, "fused_embeddings")
    assert main(["materialize", "--no-train", "--budget-hours=10", "--budget-usd=1"]) == 0
    assert "6 titles up to date" in capsys.readouterr().out
    assert len(places.lake.data_versions("fused_embeddings")) == 6


def test_what_a_run_really_took_is_subtracted_before_the_next_title(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lose(places, "fused_embeddings")
    monkeypatch.setattr(budgets, "TITLES_PER_RUN", 1)
    monkeypatch.setattr("mediafm_assets.commands.headless.booked", lambda *_: (0.0, 3600.0))
    assert main(["materialize", "--no-train", "--budget-hours=1.5"]) == 0
    assert f"not started: {titles_in(places)[2]} and what comes after it" in capsys.readouterr().out
    assert len(places.lake.data_versions("fused_embeddings")) == 2


def test_what_is_made_once_for_all_titles_keeps_to_the_budget(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    for (version,) in list(places.lake.data_versions("probe_metrics")):
        places.lake.delete("probe_metrics", {"encoder_version": version})
    assert main(["materialize", "--budget-hours=1e-9"]) == 0
    assert "not started: probe_metrics, which is made once for all titles" in capsys.readouterr().out
    assert not places.lake.data_versions("probe_metrics")


def test_clips_are_put_to_no_service_beyond_the_dollars(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDIAFM_CLIP_ENCODERS", "vertex")
    service = VertexServer()
    with running(service):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account_file(service, tmp_path / "account.json")))
        monkeypatch.setattr(vertex, "ADDRESS", service.url)
        assert main(["materialize", "--no-train", "--budget-usd=0.01"]) == 0
    assert "not started: clip_embeddings, which is made once for all titles" in capsys.readouterr().out
    assert not service.attempts
    assert places.lake.scan("clip_embeddings").collect().is_empty()


def test_hours_cannot_be_kept_without_history_of_this_machine(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lose(places, "fused_embeddings")
    monkeypatch.setattr(forecast, "machine", lambda: "another, 64 cores")
    assert main(["materialize", "--no-train", "--budget-hours=1"]) == 2
    assert "--budget-hours cannot be kept. Seconds are not known" in capsys.readouterr().err
    assert not places.lake.data_versions("fused_embeddings")


def test_dollars_cannot_be_kept_for_a_model_without_a_price(
    places: Places, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDIAFM_TEXT_MODEL", "our-own")
    assert main(["materialize", "--no-train", "--budget-usd=1"]) == 2
    assert "there is no list price of this model" in capsys.readouterr().err
    assert not server.attempts
