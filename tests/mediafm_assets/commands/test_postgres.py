"""Dagster's runs and events in Postgres, chosen by one variable; the lake is what is known."""

from pathlib import Path

import dagster as dg
import pytest

from mediafm_assets.commands.cli import main
from tests.conftest import Postgres
from tests.mediafm_assets.conftest import Drop, Places


def storage_of_runs() -> str:
    with dg.DagsterInstance.get() as instance:
        return type(instance.run_storage).__name__


def test_one_variable_moves_an_instance_from_sqlite_to_postgres_and_makes_nothing_again(
    places: Places, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    instance_file, files = Path(places.environment["DAGSTER_HOME"], "dagster.yaml"), places.files()
    instance_file.write_text(instance_file.read_text().replace("max_concurrent_runs: 3", "max_concurrent_runs: 7"))
    assert storage_of_runs() == "SqliteRunStorage"
    monkeypatch.setenv("MEDIAFM_POSTGRES_URL", postgres.new_database())
    assert main(["materialize"]) == 0
    assert "nothing had changed, no step was run" in capsys.readouterr().out
    assert places.files() == files
    assert "max_concurrent_runs: 7" in instance_file.read_text(), "the instance's own settings were lost"
    with dg.DagsterInstance.get() as instance:
        assert type(instance.run_storage).__name__ == "PostgresRunStorage"
        assert len(instance.get_dynamic_partitions("titles")) == 6
        assert len(instance.get_materialized_partitions(dg.AssetKey("contextual_embeddings"))) == 6


def test_with_the_database_no_knowledge_is_lost(
    places: Places,
    postgres: Postgres,
    drop: Drop,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    film = sorted((places.landing / "titles").iterdir())[0] / "film.mp4"
    drop(places.landing, "zz-dropped", film)
    monkeypatch.setenv("MEDIAFM_POSTGRES_URL", postgres.new_database())
    assert main(["materialize", "--no-train"]) == 0
    with dg.DagsterInstance.get() as instance:
        assert instance.get_runs_count() > 0, "the title was made in a run that Postgres has"
    files = places.files()
    assert any("zz-dropped" in name for name in files)

    monkeypatch.setenv("MEDIAFM_POSTGRES_URL", postgres.new_database())
    capsys.readouterr()
    assert main(["materialize", "--no-train"]) == 0
    assert "nothing had changed, no step was run" in capsys.readouterr().out
    assert places.files() == files
    with dg.DagsterInstance.get() as instance:
        assert instance.get_runs_count() == 0
        assert "zz-dropped" in instance.get_materialized_partitions(dg.AssetKey("contextual_embeddings"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg2://dagster:hunter2@127.0.0.1:1/dagster",
        "postgresql+psycopg2://dagster:hunter2@127.0.0.1:port/dagster",
        "postgresql+nosuchdriver://dagster:hunter2@127.0.0.1/dagster",
        "hunter2",
        "nosuchdatabase://dagster:hunter2@127.0.0.1/dagster",
    ],
)
def test_a_database_that_cannot_be_used_is_one_sentence_without_its_password_and_changes_nothing(
    url: str, places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dagster_postgres")
    monkeypatch.setenv("MEDIAFM_POSTGRES_URL", url)
    assert main(["materialize"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mediafm: the database that MEDIAFM_POSTGRES_URL names cannot be used (")
    assert said.count("\n") == 1
    assert "hunter2" not in said
    monkeypatch.delenv("MEDIAFM_POSTGRES_URL")
    assert storage_of_runs() == "SqliteRunStorage"


def test_the_commands_that_only_read_need_no_database(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIAFM_POSTGRES_URL", "postgresql://dagster@127.0.0.1:1/dagster")
    title = sorted(path.name for path in (places.landing / "titles").iterdir())[0]
    assert main(["show", title]) == 0
