"""The lake through real Delta tables, real Dagster runs, several processes and a disk that fails."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.lake import TABLES, ContractError, Damaged, DeltaLake, PartitionMissing, arrow_schema, violations
from tests.resources.lake_rows import partition, rows

REPOSITORY = Path(__file__).parents[3]
PARTITIONED = [table for table, declared in TABLES.items() if declared.partition_by]
HOSTILE_KEYS = [
    "it's", "''", "a b", "ünï-千と千尋", "100%", "%41", "a=b", "a/b", "../up", "..", "a\\b", 'say "so"', "x' OR '1'='1",
    "x'); DROP TABLE shots; --", "tab\tnew\nline", "?*[]{}#&+;:", "null", " ", "title_id=a",
]  # fmt: skip


@pytest.fixture
def lake(tmp_path: Path) -> DeltaLake:
    return DeltaLake(uri=str(tmp_path / "lake"))


def files(lake: DeltaLake, table: str) -> dict[Path, tuple[int, int]]:
    """Every data file of a table, with its time and size."""
    found = Path(lake.table_uri(table)).rglob("*.parquet")
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in found if "_delta_log" not in path.parts}


def shots(n: int) -> pl.DataFrame:
    return rows("shots", n)


# ---- writing and reading --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", PARTITIONED)
def test_what_was_written_is_read_back(lake: DeltaLake, table: str) -> None:
    n = 3 if TABLES[table].key else 1
    for title in ("a", "t", "z"):
        # Two titles share an encoder's or a task's partition in some tables: then the last one stays.
        assert lake.write(table, partition(table, title), rows(table, n), "v" * 32) == n
    read = lake.read(table, **partition(table))
    assert violations(table, read) == []
    assert read.select(rows(table, n).columns).equals(rows(table, n))
    assert read["data_version"].unique().to_list() == ["v" * 32]
    assert lake.data_versions(table)[tuple(partition(table).values())] == "v" * 32


def test_rows_are_read_in_the_order_of_their_key(lake: DeltaLake) -> None:
    shuffled = shots(40).sample(fraction=1, shuffle=True, seed=3)
    lake.write("shots", {"title_id": "a"}, shuffled, "v")
    assert lake.read("shots", title_id="a")["shot_index"].to_list() == list(range(40))


def test_a_partition_written_in_parts_is_one_commit(lake: DeltaLake) -> None:
    lake.create_tables()
    before = lake.table_version("shots")
    assert lake.write("shots", {"title_id": "a"}, (shots(50)[i : i + 7] for i in range(0, 50, 7)), "v") == 50
    assert lake.table_version("shots") == before + 1
    assert lake.read("shots", title_id="a")["shot_index"].to_list() == list(range(50))


def test_what_is_not_there_is_said_by_name(lake: DeltaLake) -> None:
    with pytest.raises(PartitionMissing, match="shots has no partition title_id=a"):
        lake.read("shots", title_id="a")
    lake.write("shots", {"title_id": "b"}, shots(2), "v")
    with pytest.raises(LookupError, match="title_id=a"):
        lake.read("shots", title_id="a")
    with pytest.raises(ValueError, match="is partitioned by"):
        lake.read("shots", encoder_version="x")
    assert lake.data_versions("titles") == {}


def test_only_a_missing_table_is_absent_and_a_broken_one_is_an_error(lake: DeltaLake) -> None:
    lake.write("shots", {"title_id": "a"}, shots(2), "v")
    log = Path(lake.table_uri("shots")) / "_delta_log"
    (log / f"{1:020}.json").write_text("{ not a log")
    for look in (lambda: lake.read("shots", title_id="a"), lambda: lake.data_versions("shots")):
        with pytest.raises(Exception, match=r"(?i)json") as raised:
            look()
        assert not isinstance(raised.value, LookupError)
    with pytest.raises(Exception, match=r"(?i)json"):
        lake.write("shots", {"title_id": "b"}, shots(2), "v")
    assert (log / f"{1:020}.json").read_text() == "{ not a log"


def test_no_rows_leave_no_partition(lake: DeltaLake) -> None:
    lake.write("shots", {"title_id": "a"}, shots(2), "v1")
    lake.write("shots", {"title_id": "b"}, shots(2), "v1")
    assert lake.write("shots", {"title_id": "a"}, shots(0), "v2") == 0
    assert list(lake.data_versions("shots")) == [("b",)]
    lake.delete("shots", {"title_id": "b"})
    lake.delete("shots", {"title_id": "never there"})
    assert lake.data_versions("shots") == {}
    assert lake.scan("shots").collect().is_empty()


@pytest.mark.parametrize("key", HOSTILE_KEYS)
def test_any_key_names_its_own_partition_and_no_other(lake: DeltaLake, key: str) -> None:
    for name in ("a", "b", key):
        lake.write("contextual_embeddings", {"encoder_version": key, "title_id": name}, contextual(2), "v1")
        lake.write("shots", {"title_id": name}, shots(2), "v1")
    lake.write("shots", {"title_id": key}, shots(5), "v2")
    assert len(lake.read("shots", title_id=key)) == 5
    assert lake.read("shots", title_id=key)["title_id"].unique().to_list() == [key]
    assert lake.data_versions("shots") == {("a",): "v1", ("b",): "v1", (key,): "v2"}
    assert lake.write_metadata("shots", {"title_id": key})["dagster/partition_row_count"] == 5
    assert len(lake.partition_files("shots", {"title_id": key})) == 1
    assert len(lake.read("contextual_embeddings", encoder_version=key, title_id=key)) == 2
    assert len(lake.read("contextual_embeddings", encoder_version=key)) == 6
    lake.delete("shots", {"title_id": key})
    assert sorted(lake.data_versions("shots")) == [("a",), ("b",)]
    assert all(Path(lake.uri) in path.parents for path in files(lake, "shots"))


def contextual(n: int) -> pl.DataFrame:
    return rows("contextual_embeddings", n)


@pytest.mark.parametrize(
    "bad",
    [
        {"title_id": ""},
        {"title_id": "__HIVE_DEFAULT_PARTITION__"},
        {"encoder_version": "x"},
        {},
        {"title_id": "a", "task": "x"},
    ],
)
def test_what_cannot_name_a_partition_is_refused(lake: DeltaLake, bad: dict[str, str]) -> None:
    with pytest.raises(ContractError):
        lake.write("shots", bad, shots(2), "v")


@pytest.mark.parametrize("version", ["", "0" * 33])
def test_a_version_that_the_log_would_not_hold_whole_is_refused(lake: DeltaLake, version: str) -> None:
    with pytest.raises(ContractError, match="1 to 32 characters"):
        lake.write("shots", {"title_id": "a"}, shots(2), version)


KEYS = st.sampled_from(["a", "b", "it's", "a/b", "%41", "A"])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=st.lists(st.tuples(KEYS, st.integers(0, 3), st.booleans()), max_size=7))
def test_any_sequence_of_overwrites_equals_the_last_write_of_each_key(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[str, int, bool]]
) -> None:
    lake = DeltaLake(uri=str(tmp_path_factory.mktemp("lake")))
    last: dict[str, tuple[int, str]] = {}
    for i, (key, n, in_parts) in enumerate(writes):
        frame = shots(n)
        lake.write("shots", {"title_id": key}, [frame[:1], frame[1:]] if in_parts else frame, f"v{i}")
        last[key] = (n, f"v{i}")
        kept = {key: value for key, value in last.items() if value[0]}
        assert lake.data_versions("shots") == {(key,): version for key, (_, version) in kept.items()}
    for key, (n, version) in kept.items() if writes else []:
        read = lake.read("shots", title_id=key)
        assert (len(read), read["data_version"].unique().to_list()) == (n, [version])
    assert lake.scan("shots").select(pl.len()).collect().item() == sum(n for n, _ in last.values())


def test_one_more_title_touches_no_file_of_any_other(lake: DeltaLake) -> None:
    for table in PARTITIONED:
        for title in ("a", "b"):
            lake.write(table, partition(table, title), rows(table, 1), "v")
    per_title = [table for table in TABLES if "title_id" in TABLES[table].partition_by]
    before = {table: files(lake, table) for table in per_title}
    uris = {table: lake.partition_files(table, partition(table, "a")) for table in per_title}
    for table in per_title:
        lake.write(table, partition(table, "c"), rows(table, 1), "v")
        after = files(lake, table)
        assert before[table].items() <= after.items()
        assert len(after) == len(before[table]) + 1
        assert lake.partition_files(table, partition(table, "a")) == uris[table]


def test_reading_a_title_opens_no_file_of_another(lake: DeltaLake) -> None:
    for title in ("a", "it's"):
        lake.write("shots", {"title_id": title}, shots(3), "v")
    for uri in lake.partition_files("shots", {"title_id": "a"}):
        Path(uri).unlink()
    assert len(lake.read("shots", title_id="it's")) == 3
    with pytest.raises(Damaged, match=r"shots title_id=a in .* is damaged: .* is gone. `mediafm materialize` makes it"):
        lake.read("shots", title_id="a")


def test_data_versions_open_no_data_file(lake: DeltaLake) -> None:
    for i in range(120):  # past the hundredth commit, of which the log makes a checkpoint
        lake.write("shots", {"title_id": f"t{i}"}, shots(1), f"{i:032x}")
    assert list((Path(lake.table_uri("shots")) / "_delta_log").glob("*.checkpoint.parquet"))
    for path in files(lake, "shots"):
        path.unlink()
    assert lake.data_versions("shots") == {(f"t{i}",): f"{i:032x}" for i in range(120)}
    assert lake.write_metadata("shots", {"title_id": "t3"})["dagster/partition_row_count"] == 1


def test_a_partition_says_its_own_rows_and_those_of_the_whole_table(lake: DeltaLake) -> None:
    for title, of_title in (("a", 3), ("b", 2), ("a", 4)):
        lake.write("shots", {"title_id": title}, shots(of_title), "v1")
    lake.write("shots", {"title_id": "gone"}, shots(1), "v1")
    lake.delete("shots", {"title_id": "gone"})
    said = lake.write_metadata("shots", {"title_id": "a"})
    assert (said["dagster/partition_row_count"], said["dagster/row_count"]) == (4, 6)
    assert lake.at_present("shots").write_metadata("shots", {"title_id": "b"})["dagster/row_count"] == 6
    assert lake.write_metadata("shots", {"title_id": "gone"})["dagster/partition_row_count"] == 0


def test_what_others_wrote_into_a_partition_has_no_version_of_ours(lake: DeltaLake) -> None:
    from deltalake import write_deltalake

    lake.write("shots", {"title_id": "a"}, shots(2), "v1")
    lake.write("shots", {"title_id": "b"}, shots(2), "v1")
    foreign = lake.read("shots", title_id="a").with_columns(data_version=pl.lit("v2"))
    write_deltalake(lake.table_uri("shots"), foreign.to_arrow(), mode="append")
    assert lake.data_versions("shots") == {("a",): "", ("b",): "v1"}


def test_a_version_survives_compaction(lake: DeltaLake) -> None:
    lake.write("shots", {"title_id": "a"}, shots(2), "v1")
    lake.write("shots", {"title_id": "b"}, shots(2), "v2")
    DeltaTable(lake.table_uri("shots")).optimize.compact()
    DeltaTable(lake.table_uri("shots")).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert lake.data_versions("shots") == {("a",): "v1", ("b",): "v2"}
    assert len(lake.read("shots", title_id="a")) == 2


def test_a_lake_lives_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for uri in (str(tmp_path / "my films (ü) 100%"), "relative/lake", str(tmp_path / "slash") + "/"):
        lake = DeltaLake(uri=uri)
        lake.write("shots", {"title_id": "a"}, shots(2), "v")
        assert len(lake.read("shots", title_id="a")) == 2
        assert lake.data_versions("shots") == {("a",): "v"}
        assert lake.scan("shots").collect().shape == (2, len(TABLES["shots"].columns))
        assert all(Path(uri).is_file() for uri in lake.partition_files("shots", {"title_id": "a"}))
    assert (tmp_path / "relative" / "lake" / "shots" / "_delta_log").is_dir()


# ---- contracts ------------------------------------------------------------------------------------------------------


def refused(lake: DeltaLake, table: str, frame: pl.DataFrame, sentence: str) -> None:
    """The lake refuses the frame with a sentence, and what was visible before still is."""
    before, version = lake.scan(table).collect(), lake.table_version(table)
    with pytest.raises(ContractError, match=sentence) as raised:
        lake.write(table, partition(table), [frame], "new")
    assert str(raised.value).startswith(f"{table} {', '.join(f'{k}={v}' for k, v in partition(table).items())}: ")
    assert lake.scan(table).collect().equals(before)
    assert lake.table_version(table) == version
    assert lake.data_versions(table) == {tuple(partition(table).values()): "old"}


def test_a_vector_with_nan_is_refused_and_nothing_becomes_visible(lake: DeltaLake) -> None:
    good = rows("fused_embeddings")
    lake.write("fused_embeddings", partition("fused_embeddings"), good, "old")
    vectors = good["embedding"].to_list()
    vectors[3][2000] = float("nan")
    broken = good.with_columns(embedding=pl.Series(vectors, dtype=pl.List(pl.Float32)))
    refused(lake, "fused_embeddings", broken, "1 numbers that are null, NaN or infinite")


def test_columns_that_do_not_match_are_refused(lake: DeltaLake) -> None:
    lake.write("shots", partition("shots"), shots(2), "old")
    refused(lake, "shots", shots(3).drop("detector"), "missing: detector")
    refused(lake, "shots", shots(3).with_columns(mood=pl.lit("calm")), "not declared: mood")
    refused(lake, "shots", shots(3).with_columns(pl.col("start_s").cast(pl.String)), "start_s is String, not Float64")
    refused(lake, "shots", shots(3).with_columns(start_frame=0.5), "start_frame is Float64, not Int64")
    refused(lake, "shots", shots(3).with_columns(pl.lit(None).alias("detector")), "detector is null in 3 rows")
    refused(lake, "shots", shots(3).with_columns(shot_index=pl.lit(2**40)), "shot_index")
    refused(lake, "shots", shots(3).with_columns(title_id=pl.lit("another")), "the rows name another title_id")


def test_what_only_the_whole_partition_tells_is_checked_over_its_parts(lake: DeltaLake) -> None:
    lake.write("shots", partition("shots"), shots(2), "old")
    with pytest.raises(ContractError, match="1 keys"):
        lake.write("shots", partition("shots"), [shots(3), shots(1)], "new")
    with pytest.raises(ContractError, match="not numbered"):
        lake.write("shots", partition("shots"), [shots(2), shots(5)[3:]], "new")
    assert lake.data_versions("shots") == {("t",): "old"}


def test_types_that_lose_nothing_are_cast(lake: DeltaLake) -> None:
    """What Python's own lists become in polars: wide integers, float64 vectors, nulls without a type, whole numbers."""
    plain = pl.DataFrame(
        {
            "shot_index": [0, 1],
            "start_s": [0, 1],
            "end_s": [1, 2],
            "embedding": [[0.6] * 768, [0.1] * 768],
            "present": [True, True],
            "encoder": ["e", "e"],
            "input_hash": [None, None],
            "text": ["x", "y"],
            "track": [None, None],
        }
    )
    lake.write("text_embeddings", {"title_id": "a"}, plain.drop("start_s", "end_s"), "v")
    assert lake.read("text_embeddings", title_id="a")["embedding"][0].to_list() == pytest.approx([0.6] * 768)
    spans = plain.select("shot_index", "start_s", "end_s", embedding=pl.col("embedding").list.to_array(768))
    states = spans.with_columns(last=None, middle=None)
    lake.write("contextual_embeddings", {"encoder_version": "e", "title_id": "a"}, states, "v")
    assert lake.read("contextual_embeddings", title_id="a")["end_s"].to_list() == [1.0, 2.0]


def test_the_failure_of_whoever_makes_the_rows_is_passed_on_and_nothing_is_visible(lake: DeltaLake) -> None:
    lake.write("shots", {"title_id": "a"}, shots(2), "old")
    before = files(lake, "shots")

    def cut_short() -> Iterator[pl.DataFrame]:
        yield shots(1)
        raise ConnectionError("the camera fell over")

    with pytest.raises(ConnectionError, match="fell over"):
        lake.write("shots", {"title_id": "a"}, cut_short(), "new")
    assert files(lake, "shots") == before
    assert lake.data_versions("shots") == {("a",): "old"}


def test_a_violation_in_the_last_of_many_frames_leaves_what_was_there(lake: DeltaLake) -> None:
    lake.write("fused_embeddings", {"title_id": "a"}, rows("fused_embeddings", 3), "old")
    before = files(lake, "fused_embeddings")
    good = rows("fused_embeddings", 2000)
    vectors = good["embedding"][1999:].to_list()
    vectors[0][7] = float("inf")
    broken = good[1999:].with_columns(embedding=pl.Series(vectors, dtype=pl.List(pl.Float32)))
    with pytest.raises(ContractError, match="NaN or infinite"):
        lake.write("fused_embeddings", {"title_id": "a"}, (f for f in (good[:1000], good[1000:1999], broken)), "new")
    assert files(lake, "fused_embeddings") == before
    assert lake.data_versions("fused_embeddings") == {("a",): "old"}


def test_a_title_of_many_pictures_is_written_in_little_memory(lake: DeltaLake) -> None:
    """300 pictures of a megabyte, each its own frame: the process grows by less than half of what it writes."""
    code = f"""
import os, random, threading
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
def pictures():
    for i in range(300):
        yield rows("shot_frames", 1).with_columns(
            jpeg=polars.Series([os.urandom(1_000_000)]), frame_index=polars.lit(i, dtype=polars.Int64))
lake = DeltaLake(uri={lake.uri!r})
lake.write("shot_frames", {{"title_id": "warm"}}, rows("shot_frames", 1), "v")
before = most = resident()
done = threading.Event()
def watch():
    global most
    while not done.wait(0.005):
        most = max(most, resident())
watcher = threading.Thread(target=watch)
watcher.start()
lake.write("shot_frames", {{"title_id": "a"}}, pictures(), "v")
done.set()
watcher.join()
print((most - before) // 1_000_000)
"""
    (said,) = processes(code)
    assert int(said) < 150
    version = DeltaTable(lake.table_uri("shot_frames")).version()
    assert version == 2, "one commit"
    (uri,) = lake.partition_files("shot_frames", {"title_id": "a"})
    groups = pq.ParquetFile(uri).metadata
    assert (groups.num_rows, groups.num_row_groups) == (300, 18)


def test_columns_of_vectors_have_no_dictionary_and_everything_is_compressed(lake: DeltaLake) -> None:
    lake.write("fused_embeddings", {"title_id": "a"}, rows("fused_embeddings"), "v")
    (uri,) = lake.partition_files("fused_embeddings", {"title_id": "a"})
    group = pq.ParquetFile(uri).metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert not columns["embedding.list.element"].has_dictionary_page
    assert columns["space"].has_dictionary_page
    assert {column.compression for column in columns.values()} == {"ZSTD"}


def test_the_tables_say_what_they_are(lake: DeltaLake) -> None:
    lake.create_tables()
    lake.create_tables()
    for table, declared in TABLES.items():
        found = DeltaTable(lake.table_uri(table))
        assert found.version() == 0
        assert found.metadata().description == declared.description
        assert found.metadata().partition_columns == list(declared.partition_by)
        for field, column in zip(found.schema().fields, declared.columns, strict=True):
            assert (field.name, field.nullable) == (column.name, column.nullable or column.default is not None)
            assert field.metadata["comment"] == column.description
        assert found.protocol().min_reader_version == 1, "every Delta reader can open it"


def test_a_table_created_under_older_descriptions_takes_new_rows(lake: DeltaLake) -> None:
    import pyarrow as pa

    older = pa.schema(field.with_metadata({"comment": "Another text."}) for field in arrow_schema("shots"))
    Path(lake.uri).mkdir()
    DeltaTable.create(lake.table_uri("shots"), schema=older, partition_by=["title_id"])
    lake.write("shots", {"title_id": "a"}, shots(2), "v")
    assert lake.data_versions("shots") == {("a",): "v"}


# ---- several processes ----------------------------------------------------------------------------------------------


def processes(*codes: str) -> list[str]:
    """Run the programs at the same time; what they print."""
    preamble = (
        "import sys\nfrom resources.lake import DeltaLake\nfrom tests.resources.lake_rows import rows\n"
        "import deltalake, polars, pyarrow\nprint('ready', flush=True); sys.stdin.readline()\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", preamble + code],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "POLARS_MAX_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for code in codes
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=240) for process in started]
    assert all(process.returncode == 0 for process in started), "\n".join(errors for _, errors in said)
    return [out for out, _ in said]


def test_racing_first_creates_make_every_table_once(lake: DeltaLake) -> None:
    processes(*[f"DeltaLake(uri={lake.uri!r}).create_tables()"] * 4)
    for table in TABLES:
        assert DeltaTable(lake.table_uri(table)).version() == 0


def test_racing_first_writes_lose_nothing(lake: DeltaLake) -> None:
    processes(
        *(
            f"DeltaLake(uri={lake.uri!r}).write('shots', {{'title_id': 'title {i}'}}, rows('shots', {i + 1}), 'v{i}')"
            for i in range(4)
        )
    )
    assert lake.data_versions("shots") == {(f"title {i}",): f"v{i}" for i in range(4)}
    assert {i: len(lake.read("shots", title_id=f"title {i}")) for i in range(4)} == {i: i + 1 for i in range(4)}


def test_eight_processes_on_disjoint_titles_lose_nothing(lake: DeltaLake) -> None:
    lake.create_tables()
    code = """
lake = DeltaLake(uri={uri!r})
for turn in range(3):
    for title in range(4):
        key = {{"title_id": f"p{process}-{{title}}"}}
        lake.write("video_embeddings", key, rows("video_embeddings", 3), f"v{{turn}}")
"""
    processes(*(code.format(uri=lake.uri, process=process) for process in range(8)))
    assert lake.data_versions("video_embeddings") == {(f"p{p}-{t}",): "v2" for p in range(8) for t in range(4)}
    assert lake.scan("video_embeddings").select(pl.len()).collect().item() == 8 * 4 * 3
    assert lake.table_version("video_embeddings") == 8 * 4 * 3


def test_of_two_runs_that_write_one_title_the_last_wins_whole(lake: DeltaLake) -> None:
    lake.create_tables()
    # Each writer's frames have their own number of rows and bytes, so that a mixture would show.
    code = """
lake = DeltaLake(uri={uri!r})
for turn in range(6):
    frame = rows("shot_frames", {n}, seed={n})
    lake.write("shot_frames", {{"title_id": "t"}}, [frame[:2], frame[2:]], f"p{n}-{{turn}}")
    seen = lake.read("shot_frames", title_id="t")
    print(len(seen), *seen["data_version"].unique().to_list(), len(seen["jpeg"].bin.encode("hex").str.head(2).unique()))
"""
    said = processes(*(code.format(uri=lake.uri, n=n) for n in (3, 4, 5)))
    for line in "".join(said).splitlines():
        n_rows, version, writers = line.split()  # one version, or this fails
        assert version.startswith(f"p{n_rows}-")
        assert writers == "1"
    assert lake.table_version("shot_frames") == 18
    ((version,),) = [tuple(lake.data_versions("shot_frames").values())]
    assert version in {"p3-5", "p4-5", "p5-5"}


def test_a_commit_that_came_between_is_written_over_not_mixed_in(lake: DeltaLake) -> None:
    """The same without chance: another writer commits the title while this one is still making its rows."""
    lake.create_tables()

    def overtaken() -> Iterator[pl.DataFrame]:
        yield shots(2)
        DeltaLake(uri=lake.uri).write("shots", {"title_id": "a"}, shots(9), "first")
        yield shots(4)[2:]

    assert lake.write("shots", {"title_id": "a"}, overtaken(), "last") == 4
    assert lake.data_versions("shots") == {("a",): "last"}
    assert len(lake.read("shots", title_id="a")) == 4


# ---- a disk that fails ----------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_partition_readable(lake: DeltaLake) -> None:
    """No file may grow past 5 kB: too little for a title's Parquet file."""
    lake.write("titles", {"title_id": "a"}, rows("titles", 1), "old")
    code = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
try:
    DeltaLake(uri={lake.uri!r}).write("titles", {{"title_id": "a"}}, rows("titles", 1), "new")
except Exception as error:
    print(type(error).__name__, error)
"""
    (said,) = processes(code)
    assert said.startswith("OSError"), said
    assert "too large" in said
    assert lake.data_versions("titles") == {("a",): "old"}
    assert lake.read("titles", title_id="a")["synopsis"].to_list() == rows("titles", 1)["synopsis"].to_list()
    lake.write("titles", {"title_id": "a"}, rows("titles", 1), "new")
    assert lake.data_versions("titles") == {("a",): "new"}


def test_a_store_that_takes_no_data_file_leaves_the_table_as_it_was(lake: DeltaLake) -> None:
    lake.write("shots", {"title_id": "a"}, shots(2), "old")
    # Root may write anywhere, so a mode bit stops nobody here: a file stands where the partition's folder should.
    (Path(lake.table_uri("shots")) / "title_id=b").write_bytes(b"")
    with pytest.raises(Exception, match=r"title_id=b") as raised:
        lake.write("shots", {"title_id": "b"}, shots(3), "new")
    assert not isinstance(raised.value, ContractError | LookupError)
    assert lake.table_version("shots") == 1
    assert lake.data_versions("shots") == {("a",): "old"}
    assert len(lake.read("shots", title_id="a")) == 2


def test_a_lake_at_present_reads_its_tables_as_they_were_whatever_is_written_later(lake: DeltaLake) -> None:
    lake.write("shots", {"title_id": "a"}, shots(2), "old")
    present = lake.at_present("shots")
    lake.write("shots", {"title_id": "a"}, shots(3), "new")
    lake.write("shots", {"title_id": "b"}, shots(3), "new")
    assert present.data_versions("shots") == {("a",): "old"}
    assert len(present.read("shots", title_id="a")) == 2
    assert present.scan("shots").collect()["title_id"].to_list() == ["a", "a"]
    assert present.pinned == {"shots": present.table_version("shots")}
    with pytest.raises(PartitionMissing):
        present.read("shots", title_id="b")
    assert lake.data_versions("shots") == {("a",): "new", ("b",): "new"}


def test_a_log_that_cannot_be_written_leaves_the_old_partition_readable(lake: DeltaLake) -> None:
    lake.write("shots", {"title_id": "a"}, shots(2), "old")
    log = Path(lake.table_uri("shots")) / "_delta_log"
    # Root may write anywhere, so a mode bit stops nobody here: the name of the next commit is taken by a folder.
    (log / f"{2:020}.json").mkdir()
    with pytest.raises(
        OSError, match=r"log of shots in .* took none of 5 commits, .* on version 1 \(.*Nothing was changed"
    ):
        lake.write("shots", {"title_id": "a"}, shots(3), "new")
    (log / f"{2:020}.json").rmdir()
    assert lake.data_versions("shots") == {("a",): "old"}
    assert len(lake.read("shots", title_id="a")) == 2


# ---- S3 -------------------------------------------------------------------------------------------------------------


def test_a_lake_in_a_bucket_is_written_replaced_and_read_as_one_in_a_folder(bucket: Any) -> None:
    lake = DeltaLake(uri="s3://films/lake")
    lake.create_tables()
    lake.write("shots", {"title_id": "a"}, shots(3), "old")
    lake.write("shots", {"title_id": "a'b"}, shots(2), "old")
    lake.write("shots", {"title_id": "a"}, shots(2), "new")
    assert lake.data_versions("shots") == {("a",): "new", ("a'b",): "old"}
    assert (
        lake.read("shots", title_id="a")
        .drop("title_id", "data_version")
        .equals(lake.read("shots", title_id="a'b").drop("title_id", "data_version"))
    )
    assert len(lake.scan("shots").collect()) == 4
    lake.delete("shots", {"title_id": "a"})
    assert set(lake.data_versions("shots")) == {("a'b",)}


def test_writers_that_race_in_a_bucket_all_land(bucket: Any) -> None:
    lake = DeltaLake(uri="s3://films/lake")
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: lake.write("shots", {"title_id": f"t{n}"}, shots(2), "v"), range(8)))
    assert len(lake.data_versions("shots")) == 8
    assert lake.table_version("shots") == 8, "one creation and eight commits"


def test_several_partitions_are_replaced_in_one_commit_if_each_has_one_data_version(lake: DeltaLake) -> None:
    def of(title: str, version: str, n: int) -> pl.DataFrame:
        return shots(n).with_columns(title_id=pl.lit(title), data_version=pl.lit(version))

    lake.write("shots", {"title_id": "c"}, shots(2), "v0")
    assert lake.write_partitions("shots", pl.concat([of("a", "v1", 2), of("b", "v2", 3)])) == 5
    assert lake.data_versions("shots") == {("a",): "v1", ("b",): "v2", ("c",): "v0"}
    assert lake.table_version("shots") == 2
    for broken in (of("a", "v3", 2).drop("data_version"), pl.concat([of("a", "v3", 2), of("a", "v4", 2)])):
        with pytest.raises(ContractError, match="need one data version"):
            lake.write_partitions("shots", broken)


def test_a_table_without_partitions_is_only_added_to(lake: DeltaLake) -> None:
    for seed in range(3):
        lake.append("text_cache", rows("text_cache", 2, seed))
    assert len(lake.scan("text_cache").collect()) == 6
    assert len(lake.partition_files("text_cache", {})) == 3
    with pytest.raises(ContractError, match="not declared: data_version"):
        lake.write("text_cache", {}, rows("text_cache", 2), "v")
    with pytest.raises(ContractError, match="replaced whole"):
        lake.append("shots", shots(2))


def test_the_log_stays_small_whatever_the_texts(lake: DeltaLake) -> None:
    """Statistics of long texts would be copied into the log of every commit."""
    long = rows("titles", 1).with_columns(synopsis=pl.lit("It was a dark and stormy night. " * 1000))
    lake.write("titles", {"title_id": "a"}, long, "v")
    commits = sorted((Path(lake.table_uri("titles")) / "_delta_log").glob("*.json"))
    (add,) = [line["add"] for line in map(json.loads, commits[1].read_text().splitlines()) if "add" in line]
    assert set(json.loads(add["stats"])["minValues"]) == {"data_version"}
