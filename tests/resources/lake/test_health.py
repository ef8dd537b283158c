"""Lost, cut and changed data files; what keeps a table small; and a log that changes under its reader."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from resources import scratch
from resources.lake import TABLES, Damaged, DeltaLake, PartitionMissing, polars_schema
from resources.lake.delta import COPIED_FROM
from resources.scratch import scratch_folder
from tests.resources.lake.test_delta import HOSTILE_KEYS, REPOSITORY
from tests.resources.lake_rows import partition, rows

DAY_S = 24 * 3600


@pytest.fixture
def lake(tmp_path: Path) -> DeltaLake:
    return DeltaLake(uri=str(tmp_path / "lake"))


def the_file(lake: DeltaLake, table: str, key: dict[str, str]) -> Path:
    (uri,) = lake.partition_files(table, key)
    return Path(uri)


def delete(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    """Eight bytes in the middle, where the numbers are."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = bytes(byte ^ 255 for byte in data[middle : middle + 8])
    path.write_bytes(data)


def age(folder: Path, days: float) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - days * DAY_S,) * 2)


# ---- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["fused_embeddings", "encoder"])
@pytest.mark.parametrize(
    ("damage", "deep", "reason"),
    [
        (delete, False, "is gone"),
        (cut, False, "bytes instead of"),
        (empty, False, "has 0 bytes instead of"),
        (flip, True, "has other bytes than were written"),
    ],
)
def test_a_damaged_file_counts_as_missing_and_heals_by_being_made_again(
    lake: DeltaLake, table: str, damage: Callable[[Path], None], deep: bool, reason: str
) -> None:
    broken, sound = partition(table), dict.fromkeys(partition(table), "another")
    for key in (broken, sound):
        lake.write(table, key, rows(table), "v")
    assert lake.damaged(table, deep=True) == {}
    damage(the_file(lake, table, broken))
    key = tuple(broken.values())
    assert list(lake.damaged(table, deep=deep)) == [key]
    assert reason in lake.damaged(table, broken, deep=deep)[key]
    assert lake.damaged(table, sound, deep=deep) == {}
    assert lake.data_versions(table)[key] == "v", "looking changes nothing"
    assert list(lake.discard_damaged(table, deep=deep)) == [key]
    assert lake.data_versions(table) == {tuple(sound.values()): "v"}
    assert len(lake.scan(table).collect()) == 4
    with pytest.raises(PartitionMissing):
        lake.read(table, **broken)
    lake.write(table, broken, rows(table), "v")
    assert lake.damaged(table, deep=True) == {}
    assert len(lake.read(table, **broken)) == 4


@pytest.mark.parametrize("damage", [delete, cut, empty])
def test_reading_a_damaged_partition_says_which_and_what_to_do(lake: DeltaLake, damage: Callable[[Path], None]) -> None:
    lake.write("fused_embeddings", {"title_id": "a"}, rows("fused_embeddings", 40), "v")
    damage(the_file(lake, "fused_embeddings", {"title_id": "a"}))
    with pytest.raises(Damaged, match=r"fused_embeddings title_id=a in .* is damaged: .*mediafm materialize"):
        lake.read("fused_embeddings", title_id="a")


def test_whatever_byte_is_changed_a_read_gives_rows_or_says_that_they_are_damaged(lake: DeltaLake) -> None:
    lake.write("shots", {"title_id": "a"}, rows("shots", 40), "v")
    path = the_file(lake, "shots", {"title_id": "a"})
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 255]) + whole[position + 1 :])
        with contextlib.suppress(Damaged):
            lake.read("shots", title_id="a")
        assert lake.damaged("shots", deep=True)


def test_a_damaged_partition_can_be_written_over(lake: DeltaLake) -> None:
    lake.write("shots", {"title_id": "a"}, rows("shots", 2), "v")
    the_file(lake, "shots", {"title_id": "a"}).unlink()
    lake.write("shots", {"title_id": "a"}, rows("shots", 3), "v")
    assert len(lake.read("shots", title_id="a")) == 3
    assert lake.damaged("shots", deep=True) == {}


def test_files_that_others_wrote_are_verified_by_decoding_them(lake: DeltaLake) -> None:
    lake.write("shots", {"title_id": "a"}, rows("shots", 2), "v")
    foreign = lake.read("shots", title_id="a")
    lake.delete("shots", {"title_id": "a"})
    write_deltalake(lake.table_uri("shots"), foreign.to_arrow(), mode="append")
    assert lake.damaged("shots", deep=True) == {}
    path = the_file(lake, "shots", {"title_id": "a"})
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(200) + data[204:])
    assert lake.damaged("shots") == {}
    assert "cannot be decoded" in lake.damaged("shots", deep=True)[("a",)]


def test_what_was_written_anew_meanwhile_is_not_discarded(lake: DeltaLake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.write("shots", {"title_id": "a"}, rows("shots", 2), "old")
    the_file(lake, "shots", {"title_id": "a"}).unlink()
    looked = DeltaLake._damage

    def look_then_write(self: DeltaLake, *given: Any) -> Any:
        found = looked(self, *given)
        DeltaLake(uri=lake.uri).write("shots", {"title_id": "a"}, rows("shots", 3), "new")
        return found

    monkeypatch.setattr(DeltaLake, "_damage", look_then_write)
    assert list(lake.discard_damaged("shots")) == [("a",)]
    assert lake.data_versions("shots") == {("a",): "new"}


def test_damage_in_a_bucket_is_found_and_heals(bucket: Any) -> None:
    lake = DeltaLake(uri="s3://films/deep/lake")
    titles = ["gone", "cut", "it's flipped", *(f"sound {i}" for i in range(9))]
    for title in titles:
        lake.write("fused_embeddings", {"title_id": title}, rows("fused_embeddings"), "v")
    assert lake.damaged("fused_embeddings", deep=True) == {}
    objects: dict[str, str] = {}
    for title in titles:
        (uri,) = lake.partition_files("fused_embeddings", {"title_id": title})
        objects[title] = uri.removeprefix("s3://films/")
    bucket.delete_object(Bucket="films", Key=objects["gone"])
    data = bucket.get_object(Bucket="films", Key=objects["cut"])["Body"].read()
    bucket.put_object(Bucket="films", Key=objects["cut"], Body=data[:-7])
    data = bytearray(bucket.get_object(Bucket="films", Key=objects["it's flipped"])["Body"].read())
    data[len(data) // 2] ^= 255
    bucket.put_object(Bucket="films", Key=objects["it's flipped"], Body=bytes(data))
    for title in ("gone", "cut"):
        with pytest.raises(Damaged, match=f"title_id={title}"):
            lake.read("fused_embeddings", title_id=title)
    assert set(lake.damaged("fused_embeddings")) == {("gone",), ("cut",)}
    assert set(lake.damaged("fused_embeddings", {"title_id": "gone"})) == {("gone",)}
    assert set(lake.discard_damaged("fused_embeddings", deep=True)) == {("gone",), ("cut",), ("it's flipped",)}
    assert len(lake.data_versions("fused_embeddings")) == 9
    for title in titles[:3]:
        lake.write("fused_embeddings", {"title_id": title}, rows("fused_embeddings"), "v")
    assert lake.damaged("fused_embeddings", deep=True) == {}
    assert len(lake.scan("fused_embeddings").collect()) == 12 * 4


# ---- a log that changes under its reader ----------------------------------------------------------------------------


def test_a_table_that_was_deleted_and_made_anew_by_others_is_read_as_it_is_now(lake: DeltaLake, tmp_path: Path) -> None:
    for title in ("a", "b"):
        lake.write("shots", {"title_id": title}, rows("shots", 2), "v")
    shutil.copytree(lake.table_uri("shots"), tmp_path / "backup")
    shutil.rmtree(lake.table_uri("shots"))
    assert lake.data_versions("shots") == {}
    lake.write("shots", {"title_id": "c"}, rows("shots", 3), "w")
    lake.write("shots", {"title_id": "d"}, rows("shots", 3), "w")
    assert lake.data_versions("shots") == {("c",): "w", ("d",): "w"}
    shutil.rmtree(lake.table_uri("shots"))
    shutil.copytree(tmp_path / "backup", lake.table_uri("shots"))
    assert lake.data_versions("shots") == {("a",): "v", ("b",): "v"}
    assert len(lake.read("shots", title_id="a")) == 2


def test_commits_of_other_programs_are_followed(lake: DeltaLake) -> None:
    lake.write("shots", {"title_id": "a"}, rows("shots", 2), "v")
    assert lake.data_versions("shots") == {("a",): "v"}
    whole = lake.read("shots", title_id="a")
    table = DeltaTable(lake.table_uri("shots"))
    table.alter.set_table_properties({"delta.logRetentionDuration": "interval 3 days"})
    write_deltalake(lake.table_uri("shots"), whole.to_arrow(), mode="append")
    assert lake.data_versions("shots") == {("a",): "v"}
    assert len(lake.read("shots", title_id="a")) == 4
    DeltaTable(lake.table_uri("shots")).optimize.compact()
    assert len(lake.partition_files("shots", {"title_id": "a"})) == 1
    DeltaTable(lake.table_uri("shots")).delete("title_id = 'a'")
    assert lake.data_versions("shots") == {}
    lake.write("shots", {"title_id": "b"}, rows("shots", 2), "w")
    assert lake.data_versions("shots") == {("b",): "w"} == DeltaLake(uri=lake.uri, pinned={}).data_versions("shots")


def test_what_this_process_follows_is_what_a_new_one_reads(lake: DeltaLake) -> None:
    for turn in range(2):
        for title in HOSTILE_KEYS:
            lake.write("contextual_embeddings", {"encoder_version": title, "title_id": title}, contextual(), f"v{turn}")
            lake.data_versions("contextual_embeddings")
    lake.delete("contextual_embeddings", {"encoder_version": "..", "title_id": ".."})
    followed = lake.data_versions("contextual_embeddings"), lake.write_metadata("contextual_embeddings", {})
    DeltaTable(lake.table_uri("contextual_embeddings")).create_checkpoint()
    anew = lake.at_present("contextual_embeddings")
    assert followed[0] == anew.data_versions("contextual_embeddings")
    assert len(followed[0]) == len(HOSTILE_KEYS) - 1
    assert followed[1]["dagster/row_count"] == 4 * len(followed[0]) == len(anew.scan("contextual_embeddings").collect())


def contextual() -> Any:
    return rows("contextual_embeddings")


# ---- maintenance ----------------------------------------------------------------------------------------------------


def test_maintenance_removes_what_nothing_names_and_no_file_that_a_title_has(lake: DeltaLake) -> None:
    for turn in range(2):
        for title in HOSTILE_KEYS:
            lake.write("shots", {"title_id": title}, rows("shots", 2 + turn), f"v{turn}")
    root = Path(lake.table_uri("shots"))
    upload = root / "title_id=a" / "of-a-killed-writer.zstd.parquet"
    upload.parent.mkdir()
    upload.write_bytes(bytes(1000))
    fresh = upload.with_name("of-a-writer-at-work.zstd.parquet")
    age(root, days=9)
    fresh.write_bytes(b"12")
    done = lake.maintain("shots")
    assert (done.files, done.bytes) == (1, 1000), "what was replaced today is for readers of older versions"
    assert fresh.is_file()
    done = lake.maintain("shots", retention_hours=0)
    assert done.files == len(HOSTILE_KEYS) + 1
    assert len([path for path in root.rglob("*.parquet") if "_delta_log" not in path.parts]) == len(HOSTILE_KEYS)
    assert lake.damaged("shots", deep=True) == {}
    assert all(len(lake.read("shots", title_id=title)) == 3 for title in HOSTILE_KEYS)


def test_maintenance_shortens_the_log_and_readers_within_the_retention_go_on(lake: DeltaLake) -> None:
    for turn in range(5):
        lake.write("shots", {"title_id": "a"}, rows("shots", 1 + turn), f"v{turn}")
    root = Path(lake.table_uri("shots"))
    first = lake.maintain("shots")
    assert first.checkpoint >= 5
    age(root / "_delta_log", days=9)
    present = lake.at_present("shots")
    for turn in range(5, 8):
        lake.write("shots", {"title_id": "a"}, rows("shots", 1 + turn), f"v{turn}")
    second = lake.maintain("shots")
    assert second.log_files >= 5
    assert not (root / "_delta_log" / f"{0:020}.json").exists()
    again = DeltaLake(uri=lake.uri, pinned=present.pinned)
    assert len(again.read("shots", title_id="a")) == len(present.scan("shots").collect()) == 5
    assert lake.data_versions("shots") == {("a",): "v7"}
    assert lake.write("shots", {"title_id": "b"}, rows("shots", 1), "v") == 1
    third = lake.maintain("shots")
    assert (third.log_files, third.files, third.bytes) == (0, 0, 0)


def test_maintenance_of_every_table_on_a_new_lake_finds_nothing(lake: DeltaLake) -> None:
    for table in TABLES:
        assert lake.maintain(table).files == 0


def test_maintenance_in_a_bucket(bucket: Any) -> None:
    lake = DeltaLake(uri="s3://films/lake")
    for turn in range(3):
        lake.write("shots", {"title_id": "it's"}, rows("shots", 1 + turn), f"v{turn}")
    done = lake.maintain("shots", retention_hours=0)
    assert done.files == 2
    assert done.bytes > 1000
    assert len(lake.read("shots", title_id="it's")) == 3
    assert lake.damaged("shots", deep=True) == {}


def test_a_whole_table_is_read_from_a_copy_and_what_came_since(lake: DeltaLake) -> None:
    for i in range(COPIED_FROM + 3):
        lake.write("titles", {"title_id": f"t{i:03d}"}, rows("titles", 1), "v1")
    copy = Path(lake.table_uri("titles")) / "_copy" / "rows"
    assert lake.read_whole("titles").equals(by_key(lake.scan("titles").collect()))
    written = copy.stat().st_mtime_ns
    lake.write("titles", {"title_id": "t001"}, rows("titles", 1), "v2")
    lake.write("titles", {"title_id": "it's new"}, rows("titles", 1), "v1")
    lake.delete("titles", {"title_id": "t002"})
    whole = lake.read_whole("titles")
    assert whole.equals(by_key(lake.scan("titles").collect()))
    assert copy.stat().st_mtime_ns == written
    assert len(whole) == COPIED_FROM + 3
    lake.maintain("titles", retention_hours=0)
    assert copy.is_file()
    for damage in (flip, cut, empty, delete):
        damage(copy)
        assert lake.read_whole("titles").equals(whole)
        assert copy.stat().st_size > 100


def test_a_copy_that_is_damaged_anywhere_is_not_used(lake: DeltaLake) -> None:
    for i in range(COPIED_FROM):
        lake.write("titles", {"title_id": f"t{i:03d}"}, rows("titles", 1), "v1")
    whole = lake.read_whole("titles")
    copy = Path(lake.table_uri("titles")) / "_copy" / "rows"
    data = copy.read_bytes()
    for place in range(0, len(data), len(data) // 40):
        copy.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
        assert lake.read_whole("titles").equals(whole)
        assert copy.read_bytes() == data, place  # it was not used, but made again


def test_a_small_table_gets_no_copy(lake: DeltaLake) -> None:
    assert lake.read_whole("titles").is_empty()
    lake.write("titles", {"title_id": "a"}, rows("titles", 1), "v1")
    assert lake.read_whole("titles")["title_id"].to_list() == ["a"]
    assert not (Path(lake.table_uri("titles")) / "_copy").exists()


def test_some_rows_are_read_by_their_values_and_damage_is_named(lake: DeltaLake) -> None:
    assert lake.read_equal("titles", {"type": "movie"}).is_empty()
    for title, kind in (("a", "movie"), ("b", "series"), ("it's", "movie")):
        lake.write("titles", {"title_id": title}, rows("titles", 1).with_columns(type=pl.lit(kind)), "v1")
    found = lake.read_equal("titles", {"type": "movie"})
    assert found.sort("title_id").equals(lake.read_whole("titles").filter(type="movie"))
    assert len(found) == 2
    (uri,) = lake.partition_files("titles", {"title_id": "b"})
    cut(Path(uri))
    with pytest.raises(Damaged, match=r"titles title_id=b .* is damaged"):
        lake.read_equal("titles", {"type": "movie"})


def test_a_whole_table_in_a_bucket(bucket: Any) -> None:
    lake = DeltaLake(uri="s3://films/lake")
    keys = ({"title_id": f"t{i}", "data_version": "v"} for i in range(COPIED_FROM))
    frame = pl.concat([rows("titles", 1).with_columns(pl.lit(v).alias(k) for k, v in key.items()) for key in keys])
    lake.write_partitions("titles", frame)
    for _ in range(2):
        assert len(lake.read_whole("titles")) == COPIED_FROM
    assert bucket.head_object(Bucket="films", Key="lake/titles/_copy/rows")["ContentLength"] > 100


def by_key(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(list(polars_schema("titles"))).sort("title_id")


# ---- scratch folders ------------------------------------------------------------------------------------------------


def test_folders_of_killed_processes_go_at_the_next_start_and_those_of_living_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from resources.scratch import scratch_folder\nwith scratch_folder() as f: print(f, flush=True); input()"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    dead, living = (Path(process.stdout.readline().strip()) for process in started if process.stdout)
    (dead / "half.parquet").write_bytes(b"x")
    started[0].send_signal(signal.SIGKILL)
    started[0].wait()
    other = tmp_path / "mediafm-of-somebody-else"
    other.mkdir()
    for folder in (dead, living, other):
        os.utime(folder, (time.time() - 3600,) * 2)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scratch._sweep.cache_clear()
    with scratch_folder() as mine:
        assert mine.is_dir()
        assert not dead.exists()
        assert living.is_dir()
        assert other.is_dir()
    assert not mine.exists()
    started[1].communicate("\n")
    assert not living.exists()
