"""Tables that were created under older declarations: what comes and goes without a data file being written."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from mediafm_assets.pages.catalogue import Catalogue
from resources.lake import TABLES, ContractError, DeltaLake, checks, completion, schemas, violations
from resources.lake.tables import Column, Table
from tests.resources.lake_rows import rows

REPOSITORY = Path(__file__).parents[3]
MOOD = Column("mood", "string", "What it feels like.", nullable=True)
FACES = Column("faces", "int32", "Faces in it.", default=0)


def declare(*came: Column, gone: str = "", **changed: str) -> None:
    """Declare `shots` with other columns. changed: types by name."""
    known = tuple(
        dataclasses.replace(column, type=changed.get(column.name, column.type))
        for column in TABLES["shots"].columns
        if column.name != gone
    )
    declare_table(dataclasses.replace(TABLES["shots"], columns=(*known, *came)))


def declare_table(table: Table) -> None:
    TABLES[table.name] = table  # type: ignore[index]
    schemas.polars_schema.cache_clear()
    schemas.arrow_schema.cache_clear()


@pytest.fixture(autouse=True)
def _declared() -> Iterator[None]:
    shots = TABLES["shots"]
    yield
    declare_table(shots)


@pytest.fixture
def lake(tmp_path: Path) -> DeltaLake:
    """Two titles under the declarations as they are."""
    lake = DeltaLake(uri=str(tmp_path / "lake"))
    for title in ("a", "b"):
        lake.write("shots", {"title_id": title}, rows("shots", 3), f"v-{title}")
    return lake


def data_files(lake: DeltaLake) -> dict[Path, int]:
    found = Path(lake.table_uri("shots")).glob("title_id=*/*.parquet")
    return {path: path.stat().st_mtime_ns for path in found}


def write_one_more(lake: DeltaLake) -> None:
    lake.write("shots", {"title_id": "c"}, rows("shots", 2), "v-c")


def test_columns_that_came_are_null_or_their_default_in_rows_of_before(lake: DeltaLake) -> None:
    before = data_files(lake)
    declare(MOOD, FACES)
    write_one_more(lake)
    assert before.items() <= data_files(lake).items()
    assert len(data_files(lake)) == 3
    assert lake.data_versions("shots") == {("a",): "v-a", ("b",): "v-b", ("c",): "v-c"}
    for title, expected in {"a": (None, 0), "c": ("calm", 2)}.items():
        read = lake.read("shots", title_id=title)
        assert violations("shots", read) == []
        assert set(read.select("mood", "faces").rows()) == {expected}
    scanned = lake.scan("shots").collect().sort("title_id", "shot_index")
    assert scanned.equals(pl.concat([lake.read("shots", title_id=title) for title in "abc"]))
    assert lake.read_whole("shots").equals(scanned)


def test_other_readers_of_the_table_see_null_where_nothing_was_written(lake: DeltaLake) -> None:
    declare(MOOD, FACES)
    write_one_more(lake)
    plain = pl.scan_delta(lake.table_uri("shots")).sort("title_id", "shot_index").collect()
    assert plain["mood"].to_list() == [None] * 6 + ["calm"] * 2
    assert plain["faces"].to_list() == [None] * 6 + [2] * 2
    duckdb = pytest.importorskip("duckdb")
    of_delta_rs = DeltaTable(lake.table_uri("shots")).to_pyarrow_dataset()
    count = duckdb.sql("select count(*), count(mood), sum(faces) from of_delta_rs").fetchall()
    assert count == [(len(plain), 2, 4)]
    assert of_delta_rs.schema.field("faces").nullable


def test_a_lake_that_nobody_wrote_to_since_is_read_with_the_declared_columns(lake: DeltaLake) -> None:
    version = lake.table_version("shots")
    declare(MOOD, FACES, gone="detector")
    assert lake.read("shots", title_id="a").columns == [column.name for column in TABLES["shots"].columns]
    assert lake.scan("shots").select("mood", "faces").unique().collect().rows() == [(None, 0)]
    assert lake.table_version("shots") == version


def test_a_column_that_went_leaves_the_files_of_before_alone(lake: DeltaLake) -> None:
    before = data_files(lake)
    declare(gone="detector")
    write_one_more(lake)
    assert before.items() <= data_files(lake).items()
    assert "detector" not in lake.read("shots", title_id="a").columns
    assert "detector" not in lake.scan("shots").collect_schema().names()
    plain = pl.read_delta(lake.table_uri("shots")).sort("title_id")
    assert plain["detector"].to_list() == ["hand"] * 6 + [None] * 2


def test_a_process_of_the_older_declaration_goes_on_beside_the_newer_one(lake: DeltaLake) -> None:
    older = TABLES["shots"]
    declare(MOOD, gone="detector")
    write_one_more(lake)
    version = lake.table_version("shots")
    declare_table(older)
    lake.write("shots", {"title_id": "d"}, rows("shots", 2), "v-d")
    assert lake.table_version("shots") == version + 1, "nothing but the rows is committed"
    assert lake.read("shots", title_id="d")["detector"].to_list() == ["hand"] * 2


def test_creating_the_tables_changes_them_once_and_in_one_commit(lake: DeltaLake) -> None:
    version = lake.table_version("shots")
    declare(MOOD, FACES, gone="detector")
    for _ in range(2):
        lake.create_tables()
    assert lake.table_version("shots") == version + 1
    described = {
        field.name: field.metadata.get("comment") for field in DeltaTable(lake.table_uri("shots")).schema().fields
    }
    assert described["mood"] == MOOD.description
    assert DeltaTable(lake.table_uri("shots")).protocol().min_reader_version == 1


def test_a_column_that_may_be_null_by_now_and_is_described_otherwise_becomes_nullable(lake: DeltaLake) -> None:
    before = data_files(lake)
    declare(Column("detector", "string", "Another description.", nullable=True), gone="detector")
    write_one_more(lake)
    lake.write("shots", {"title_id": "d"}, rows("shots", 2).with_columns(detector=pl.lit(None, pl.String)), "v-d")
    assert before.items() <= data_files(lake).items()
    assert lake.scan("shots").filter(pl.col("detector").is_null()).collect()["title_id"].unique().to_list() == ["d"]


def test_two_processes_that_bring_the_columns_at_once_lose_nothing(lake: DeltaLake) -> None:
    program = """
import sys
from resources.lake import DeltaLake
from tests.resources.lake.test_migration import FACES, MOOD, declare
from tests.resources.lake_rows import rows
import deltalake, pyarrow
declare(MOOD, FACES)
print("ready", flush=True); sys.stdin.readline()
for turn in range(3):
    DeltaLake(uri=sys.argv[1]).write("shots", {"title_id": f"{sys.argv[2]}-{turn}"}, rows('shots', 2), "v")
"""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, lake.uri, name],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("p", "q")
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(timeout=200) for process in started] == [0, 0]
    declare(MOOD, FACES)
    written = {(f"{name}-{turn}",) for name in "pq" for turn in range(3)}
    assert lake.data_versions("shots").keys() == {("a",), ("b",), *written}
    assert lake.scan("shots").filter(pl.col("mood") == "calm").select(pl.len()).collect().item() == 12


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"start_frame": "string"}, "shots in .* holds start_frame as int64, and not as string, .* another name"),
        ({"came": Column("faces", "int32", "Faces.")}, "has no column faces, .* neither nullable nor with a default"),
    ],
)
def test_what_would_need_the_files_written_anew_is_refused_with_what_to_do(
    lake: DeltaLake, change: dict[str, object], because: str
) -> None:
    version = lake.table_version("shots")
    came = change.pop("came", None)
    declare(*([came] if isinstance(came, Column) else []), **change)  # type: ignore[arg-type]
    with pytest.raises(ContractError, match=because):
        lake.create_tables()
    lake_of_before = DeltaTable(lake.table_uri("shots"))
    assert lake_of_before.version() == version
    assert len(lake_of_before.file_uris()) == 2


def test_another_partitioning_is_refused(lake: DeltaLake) -> None:
    declare_table(dataclasses.replace(TABLES["shots"], partition_by=("title_id", "detector")))
    with pytest.raises(ContractError, match="is partitioned by title_id and not, as declared, by title_id, detector"):
        lake.create_tables()


def test_a_lake_of_films_from_before_podcasts_goes_on_with_their_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = {name: TABLES[name] for name in ("titles", "fused_embeddings", "shots", "shot_frames")}
    came, required = ("has_picture", "has_video"), ("width", "height", "start_frame", "end_frame", "jpeg")
    lake = DeltaLake(uri=str(tmp_path / "lake"))
    try:
        for name, table in now.items():
            columns = (
                dataclasses.replace(column, nullable=column.nullable and column.name not in required)
                for column in table.columns
                if column.name not in came
            )
            declare_table(dataclasses.replace(table, columns=tuple(columns)))
            with monkeypatch.context() as then:  # the contract of today knows the columns of today
                then.setattr(completion, "checks", lambda table: {"schema_matches": checks(table)["schema_matches"]})
                lake.write(name, {"title_id": "a"}, rows(name, 4 if table.key else 1), "v")
    finally:
        for table in now.values():
            declare_table(table)
    lake.create_tables()
    for name in now:
        assert violations(name, lake.read(name, title_id="a")) == []
        assert lake.data_versions(name) == {("a",): "v"}
    assert lake.read("titles", title_id="a")["has_picture"].to_list() == [True]
    assert lake.read("fused_embeddings", title_id="a")["has_video"].to_list() == [True] * 4
    heard = rows("titles", 1).with_columns(has_picture=False, width=pl.lit(None, pl.Int32))
    lake.write("titles", {"title_id": "b"}, heard, "v")
    assert dict(lake.scan("titles").select("title_id", "has_picture").collect().rows()) == {"a": True, "b": False}
    assert Catalogue(lake).title("a")["has_picture"] is True
