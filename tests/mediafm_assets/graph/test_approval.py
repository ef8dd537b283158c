"""A change of configuration that makes much stale waits for somebody's approval; what else there is to do goes on."""

import shutil
from typing import Any

import dagster as dg
import pytest

from mediafm_assets.commands.cli import main
from mediafm_assets.definitions import defs
from mediafm_assets.graph import approval
from mediafm_assets.graph.sensors import automation_sensor
from mediafm_assets.graph.versions import Catalogue
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages
from tests.mediafm_assets.conftest import Drop, Places

Tick = Any  # Dagster's SensorExecutionData, which it does not export


def tick(instance: dg.DagsterInstance, cursor: str | None = None) -> Tick:
    with dg.build_sensor_context(instance, cursor=cursor, definitions=defs(), resources=resources()) as context:
        return automation_sensor(all_stages()).evaluate_tick(context)


def asked_for(result: Tick) -> dict[str, set[str]]:
    """The tables that are requested, by the first title of the run, or ""."""
    found = {}
    for request in result.run_requests or []:
        first = request.tags.get("dagster/partition") or request.tags.get("dagster/asset_partition_range_start") or ""
        found[first] = {key.to_user_string() for key in request.asset_selection}
    return found


def told(result: Tick) -> list[dg.AssetCheckEvaluation]:
    """What people are told of approvals in the tick."""
    events = [event for event in result.asset_events or [] if isinstance(event, dg.AssetCheckEvaluation)]
    return [event for event in events if event.check_name == "nothing_waits"]


def titles_in(places: Places) -> list[str]:
    return sorted(path.name for path in (places.landing / "titles").iterdir())


def landed(instance: dg.DagsterInstance, places: Places) -> list[str]:
    titles = titles_in(places)
    instance.add_dynamic_partitions("titles", titles)
    return titles


def approvals(places: Places) -> list[dict[str, Any]]:
    return places.lake.read_whole("approvals").sort("decided_at").to_dicts()


def materialise_approval(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    """The click in the UI."""
    job = defs().resolve_implicit_global_asset_job_def()
    return job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey("approval")], raise_on_error=False)


def test_a_change_waits_with_its_cost_and_a_click_lets_it_go_on(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIAFM_DETECTOR", "adaptive")
    with dg.DagsterInstance.ephemeral() as instance:
        titles = landed(instance, places)
        waits = tick(instance)
        assert asked_for(waits) == {}
        (event,) = told(waits)
        assert not event.passed
        assert event.description.startswith("6 of 6 titles would be made again")
        assert "since the configuration or code of shots has changed, from which shot_frames, " in event.description
        assert event.metadata["titles"].value == 6
        assert event.metadata["seconds"].value > 0
        again = tick(instance, waits.cursor)
        assert (asked_for(again), told(again)) == ({}, [])
        assert "6 titles wait for an approval" in again.skip_message
        assert materialise_approval(instance).success
        goes_on = tick(instance, waits.cursor)
    assert "shots" in asked_for(goes_on)[titles[0]]
    assert [event.passed for event in told(goes_on)] == [True]
    last = approvals(places)[-1]
    assert (last["titles"], last["why"]) == (6, "approved in the UI")
    assert last["planned_seconds"] is None or last["planned_seconds"] > 0


def test_the_cost_for_many_titles_is_told_from_some_of_them(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIAFM_FUSION", "as_published")
    monkeypatch.setattr(approval, "SAMPLED", 2)
    catalogue = Catalogue(places.lake, resources(), all_stages())
    catalogue.read_all_titles()
    drops = {drop.title_id: drop.drop_fingerprint for drop in resources()["landing"].look().drops}
    found = approval.change(catalogue, drops)
    assert found is not None
    assert found.plan.total.titles == 2
    assert (found.total.titles, found.total.exact) == (6, False)
    assert found.total.seconds == pytest.approx(3 * found.plan.total.seconds)


def test_the_command_approves_and_says_of_what(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["approve"]) == 0
    assert "nothing waits for an approval" in capsys.readouterr().out
    monkeypatch.setenv("MEDIAFM_FUSION", "as_published")
    assert main(["approve"]) == 0
    assert "approved: 6 of 6 titles would be made again" in capsys.readouterr().out
    assert approvals(places)[-1]["why"] == "mediafm approve"
    with dg.DagsterInstance.ephemeral() as instance:
        titles = landed(instance, places)
        assert "fused_embeddings" in asked_for(tick(instance))[titles[0]]


def test_an_approval_is_of_one_configuration_and_another_one_asks_again(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        landed(instance, places)
        monkeypatch.setenv("MEDIAFM_FUSION", "as_published")
        assert main(["approve"]) == 0
        monkeypatch.setenv("MEDIAFM_DETECTOR", "adaptive")
        waits = tick(instance)
        assert asked_for(waits) == {}
        assert "shots" in told(waits)[0].description


def test_a_configuration_that_is_set_back_no_longer_waits(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        landed(instance, places)
        monkeypatch.setenv("MEDIAFM_DETECTOR", "adaptive")
        waits = tick(instance)
        monkeypatch.setenv("MEDIAFM_DETECTOR", "transnetv2")
        back = tick(instance, waits.cursor)
    assert asked_for(back) == {}
    assert [event.passed for event in told(back)] == [True]
    assert len(approvals(places)) == 1


def test_a_new_and_a_changed_film_are_made_meanwhile_and_nothing_that_is_made_once(
    places: Places, drop: Drop, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = titles_in(places)
    monkeypatch.setenv("MEDIAFM_DETECTOR", "adaptive")
    film = places.landing / "titles" / first / "film.mp4"
    drop(places.landing, "zz-new", film)
    shutil.rmtree(places.landing / "titles" / second)
    drop(places.landing, second, film)
    with dg.DagsterInstance.ephemeral() as instance:
        landed(instance, places)
        waits = tick(instance)
        assert asked_for(waits).keys() == {second, "zz-new"}
        assert told(waits)[0].metadata["titles"].value == 5
        for request in waits.run_requests or []:
            job = defs().resolve_implicit_global_asset_job_def()
            job.execute_in_process(
                instance=instance,
                asset_selection=request.asset_selection,
                tags={
                    **request.tags,
                    **({"dagster/partition": request.partition_key} if request.partition_key else {}),
                },
            )
        assert asked_for(tick(instance, waits.cursor)) == {}
    assert places.lake.read("shots", title_id="zz-new")["detector"].str.starts_with("adaptive").all()
    assert not places.lake.read("shots", title_id=first)["detector"].str.starts_with("adaptive").any()
    assert len(places.lake.data_versions("encoder")) == 1


@pytest.mark.parametrize(("ask_above", "waits"), [("1", False), ("0", True), ("0.99", True)])
def test_a_variable_says_from_which_share_on_it_asks(
    places: Places, monkeypatch: pytest.MonkeyPatch, ask_above: str, waits: bool
) -> None:
    monkeypatch.setenv("MEDIAFM_FUSION", "as_published")
    monkeypatch.setenv("MEDIAFM_ASK_ABOVE", ask_above)
    with dg.DagsterInstance.ephemeral() as instance:
        landed(instance, places)
        assert (asked_for(tick(instance)) == {}) == waits
    assert approvals(places)[-1]["by"] == ("automation" if not waits else approvals(places)[0]["by"])


def test_a_new_encoder_or_other_labels_are_no_change_of_configuration(places: Places, drop: Drop) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for title in titles_in(places):
            for table in ("scenes", "tags"):
                places.lake.delete(table, {"title_id": title})
        titles = landed(instance, places)
        found = tick(instance)
    assert {"scenes", "tags"} <= asked_for(found)[titles[0]]
    assert told(found) == []


def test_a_lake_without_approvals_is_asked_about_what_is_stale_before_any_training(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(places.root / "lake" / "approvals")
    with dg.DagsterInstance.ephemeral() as instance:
        landed(instance, places)
        assert asked_for(tick(instance)) == {}
        assert approvals(places)[-1]["by"] == "automation"
        shutil.rmtree(places.root / "lake" / "approvals")
        monkeypatch.setenv("MEDIAFM_FUSION", "as_published")
        assert [event.passed for event in told(tick(instance))] == [False]


def test_a_person_who_materialises_everything_has_decided(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIAFM_FUSION", "as_published")
    title = titles_in(places)[0]
    assert main(["materialize", "--no-train", "--title", title]) == 0
    assert len(approvals(places)) == 1, "one title is no decision on all"
    assert main(["materialize", "--no-train"]) == 0
    assert approvals(places)[-1]["why"] == "mediafm materialize"


def test_losing_dagsters_database_loses_no_approval(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIAFM_FUSION", "as_published")
    with dg.DagsterInstance.ephemeral() as instance:
        landed(instance, places)
        assert materialise_approval(instance).success
    with dg.DagsterInstance.ephemeral() as another:
        titles = landed(another, places)
        assert "fused_embeddings" in asked_for(tick(another))[titles[0]]
