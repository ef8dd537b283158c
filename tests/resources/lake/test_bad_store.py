"""A lake on S3 on a bad day: what is written is there once, whole, or not at all, and people are told what to do."""

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
import pytest

from resources.errors import Unavailable
from resources.lake import DeltaLake
from tests.conftest import free_port
from tests.resources.lake_rows import rows

COMMITS = r"^PUT .*_delta_log"


class BadDay:
    """Says what goes wrong with the store from now on."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __call__(self, only: str = "", **shares: float) -> None:
        self._ask("PUT", json.dumps({"only": only, **shares}))

    def counts(self) -> dict[str, int]:
        found: dict[str, int] = json.loads(self._ask("GET", None))
        return found

    def _ask(self, method: str, body: str | None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, "/faults", body)
        answer = connection.getresponse().read()
        connection.close()
        return answer


@pytest.fixture
def bad_day(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[BadDay]:
    port, upstream = free_port(), os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2]
    proxy = subprocess.Popen([sys.executable, "-m", "tests.faulty_s3", str(port), upstream])
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    try:
        day = BadDay(port)
        for _ in range(200):
            try:
                day()
                break
            except OSError:
                time.sleep(0.1)
        yield day
    finally:
        proxy.kill()
        proxy.wait()


@pytest.fixture
def lake(bad_day: BadDay) -> DeltaLake:
    found = DeltaLake(uri="s3://films/lake", storage_options={"timeout": "2s", "backoff_config.init_backoff": "5ms"})
    for table in ("shots", "text_cache"):
        found.table_version(table)  # creates them
    return found


def write_and_append(lake: DeltaLake, title: str, seed: int) -> None:
    lake.write("shots", {"title_id": title}, rows("shots", 3), f"{seed:032}")
    lake.append("text_cache", rows("text_cache", 2, seed))


@pytest.mark.parametrize("kind", ["slow_down", "error", "lost_answer", "late_error"])
def test_a_store_that_fails_now_and_then_loses_and_doubles_nothing(lake: DeltaLake, bad_day: BadDay, kind: str) -> None:
    bad_day(**{kind: 0.2})
    for seed in range(4):
        write_and_append(lake, f"t{seed % 2}", seed)
    assert bad_day.counts()[kind] > 3
    bad_day()
    assert lake.data_versions("shots") == {(f"t{n}",): f"{n + 2:032}" for n in range(2)}
    table = pl.read_delta("s3://films/lake/shots")
    assert table.select("title_id", "shot_index").is_unique().all()
    assert len(table) == 6
    cached = pl.read_delta("s3://films/lake/text_cache")
    assert len(cached) == 8
    assert cached["key"].is_unique().all()


@pytest.mark.parametrize("kind", ["lost_answer", "late_error"])
def test_a_commit_whose_answer_was_lost_is_not_made_twice(lake: DeltaLake, bad_day: BadDay, kind: str) -> None:
    write_and_append(lake, "t", 0)
    before = lake.table_version("shots"), lake.table_version("text_cache")
    bad_day(only=COMMITS, **{kind: 0.5})
    write_and_append(lake, "t", 1)
    write_and_append(lake, "t", 2)
    bad_day()
    assert lake.data_versions("shots") == {("t",): f"{2:032}"}
    assert len(lake.read("shots", title_id="t")) == 3
    assert len(lake.scan("text_cache").collect()) == 6
    assert (lake.table_version("shots"), lake.table_version("text_cache")) == (before[0] + 2, before[1] + 2)


def test_a_store_that_hangs_is_asked_again(lake: DeltaLake, bad_day: BadDay) -> None:
    bad_day(hang=0.1)
    write_and_append(lake, "t", 1)
    bad_day()
    assert lake.data_versions("shots") == {("t",): f"{1:032}"}
    assert len(lake.scan("text_cache").collect()) == 2


def test_a_commit_whose_answer_comes_too_late_is_looked_for_and_not_made_twice(
    lake: DeltaLake, bad_day: BadDay
) -> None:
    bad_day(only=COMMITS, hang=1.0)
    write_and_append(lake, "t", 1)
    lake.table_version("title_embeddings")  # creates it
    bad_day()
    assert lake.data_versions("shots") == {("t",): f"{1:032}"}
    assert len(lake.scan("text_cache").collect()) == 2
    assert [lake.table_version(table) for table in ("shots", "text_cache", "title_embeddings")] == [1, 1, 0]


def test_writers_who_race_on_a_bad_day_all_get_there(lake: DeltaLake, bad_day: BadDay) -> None:
    bad_day(slow_down=0.05, error=0.05, lost_answer=0.05, late_error=0.05)
    with ThreadPoolExecutor(4) as writers:
        list(writers.map(lambda n: write_and_append(lake, f"t{n}", n), range(8)))
    bad_day()
    assert lake.data_versions("shots") == {(f"t{n}",): f"{n:032}" for n in range(8)}
    assert len(pl.read_delta("s3://films/lake/shots")) == 24
    assert len(pl.read_delta("s3://films/lake/text_cache")) == 16


def test_credentials_that_expired_are_named_and_nothing_has_changed(lake: DeltaLake, bad_day: BadDay) -> None:
    write_and_append(lake, "t", 0)
    bad_day(expired=1.0)
    for use in (
        lambda: lake.write("shots", {"title_id": "t"}, rows("shots", 5), "1" * 32),
        lambda: lake.read("shots", title_id="t"),
        lambda: DeltaLake(uri="s3://films/lake").data_versions("shots"),
        lambda: lake.scan("shots"),
    ):
        with pytest.raises(Unavailable, match=r"refuses the credentials \(ExpiredToken\); renew them") as refused:
            use()
        assert "\x1b" not in str(refused.value)
    bad_day()
    assert lake.data_versions("shots") == {("t",): f"{0:032}"}
    lake.write("shots", {"title_id": "t"}, rows("shots", 5), "1" * 32)
    assert len(lake.read("shots", title_id="t")) == 5
