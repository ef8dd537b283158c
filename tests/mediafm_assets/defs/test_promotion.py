"""The encoder gate, as the command, the daemon and readers meet it: nothing worse comes into use, nobody sees half."""

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from mediafm_assets.commands.cli import main
from mediafm_assets.defs.promotion import as_table, newest_encoder_is_no_worse
from mediafm_assets.graph.promotions import retire
from mediafm_assets.graph.versions import Catalogue
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages
from resources.lake import DeltaLake
from tests.mediafm_assets.conftest import Places

FAR = "99990101T000000Z-aaaaaaaa"
LATER = "99990201T000000Z-bbbbbbbb"


def catalogue_of(places: Places) -> Catalogue:
    return Catalogue(places.lake, resources(), all_stages())


def decisions(lake: DeltaLake) -> list[dict[str, Any]]:
    return lake.read_whole("encoder_promotions").sort("decided_at").to_dicts()


def in_use(lake: DeltaLake) -> str:
    """As docs/cookbook.md tells readers to find it."""
    rows = pl.read_delta(lake.table_uri("encoder_promotions")).filter("promoted")
    version: str = rows.sort("decided_at")["encoder_version"][-1]
    return version


def add_encoder(lake: DeltaLake, version: str, noise: float) -> None:
    """Another encoder: the one in use, its numbers shuffled by so much noise."""
    rows = lake.read("encoder", encoder_version=in_use(lake)).drop("encoder_version", "data_version")
    data, rng = [], np.random.default_rng(0)
    for row in rows.iter_rows(named=True):
        numbers = np.frombuffer(row["data"], dtype="<f4")
        spread = noise * rng.standard_normal(numbers.shape) * (numbers.std() + 0.1)
        data.append((numbers + spread).astype("<f4").tobytes())
    sums = [hashlib.sha256(part).hexdigest() for part in data]
    lake.write(
        "encoder",
        {"encoder_version": version},
        rows.with_columns(pl.Series("data", data), pl.Series("sha256", sums)),
        os.urandom(16).hex(),
    )


@pytest.fixture(autouse=True)
def _strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six titles tell little; without a tolerance, what they tell decides."""
    monkeypatch.setenv("MEDIAFM_GATE_TOLERANCE", "0")


def test_the_first_encoder_comes_into_use_with_every_title_read(finished: Places) -> None:
    (row,) = decisions(finished.lake)
    assert row["promoted"]
    assert (row["by"], row["previous"]) == ("gate", None)
    assert "the first encoder" in row["why"]
    titles = {title for (title,) in finished.lake.data_versions("titles")}
    assert finished.lake.data_versions("contextual_embeddings").keys() == {(in_use(finished.lake), t) for t in titles}


def test_a_worse_encoder_is_held_back_and_readers_never_see_it(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    before = places.lake.data_versions("contextual_embeddings"), in_use(places.lake)
    add_encoder(places.lake, FAR, noise=30.0)
    main(["materialize", "--no-train"])  # whose check on the newest encoder fails
    assert (places.lake.data_versions("contextual_embeddings"), in_use(places.lake)) == before
    row = decisions(places.lake)[-1]
    assert not row["promoted"]
    assert row["encoder_version"] == FAR
    assert "worse than the encoder in use: " in row["why"]
    worse = [task for task in json.loads(row["comparison"]) if task["regressed"]]
    assert "masked_shots" in {task["task"] for task in worse}
    assert all(task["high"] < 0 for task in worse)
    said = capsys.readouterr()
    assert main(["encoders"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0].startswith(f"{FAR}  held back")
    assert listed[1].startswith(f"{before[1]}  in use")
    assert main(["encoders", "compare", FAR]) == 0
    assert "masked_shots" in capsys.readouterr().out
    assert main(["materialize", "--no-train"]) == 0, said
    assert "nothing had changed" in capsys.readouterr().out, "what is decided is not decided again"


def test_the_check_says_why_and_shows_the_figures(places: Places) -> None:
    passed = newest_encoder_is_no_worse(catalogue_of(places))
    assert passed.passed
    add_encoder(places.lake, FAR, noise=30.0)
    main(["materialize", "--no-train"])
    found = newest_encoder_is_no_worse(catalogue_of(places))
    assert not found.passed
    assert found.description
    assert "worse" in found.description
    table = as_table(decisions(places.lake)[-1])
    assert "| masked_shots (worse) | cosine" in table
    assert found.metadata["masked_shots_difference"].value < 0


def test_an_equal_encoder_comes_into_use_with_everything_that_is_made_from_it(places: Places) -> None:
    older = in_use(places.lake)
    add_encoder(places.lake, FAR, noise=0.0)
    assert main(["materialize", "--no-train"]) == 0
    assert in_use(places.lake) == FAR
    row = decisions(places.lake)[-1]
    assert (row["previous"], row["promoted"]) == (older, True)
    assert all(task["difference"] == 0 for task in json.loads(row["comparison"]))
    titles = {title for (title,) in places.lake.data_versions("titles")}
    stored = places.lake.data_versions("contextual_embeddings")
    assert {title for version, title in stored if version == FAR} == titles
    assert {title for version, title in stored if version == older} == titles, "the old generation stays, whole"
    assert set(places.lake.read_whole("scenes")["encoder_version"]) == {FAR}
    assert (FAR,) in places.lake.data_versions("probe_metrics")


def test_dagster_knows_the_versions_of_the_generation_in_use(places: Places) -> None:
    add_encoder(places.lake, FAR, noise=0.0)
    assert main(["materialize", "--no-train"]) == 0
    older = decisions(places.lake)[0]["encoder_version"]
    for expected in (FAR, older):
        with dg.DagsterInstance.get() as instance:
            told = instance.event_log_storage.get_latest_tags_by_partition(
                dg.AssetKey("contextual_embeddings"),
                dg.DagsterEventType.ASSET_MATERIALIZATION,
                ["dagster/data_version"],
            )
        stored = catalogue_of(places).titles_in("contextual_embeddings")
        assert in_use(places.lake) == expected
        assert {title: tags["dagster/data_version"] for title, tags in told.items()} == stored
        if expected == FAR:
            assert main(["encoders", "promote", older, "--by", "ada", "--why", "a trial of rolling back"]) == 0


def test_a_person_may_roll_back_and_is_not_overruled(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    older = in_use(places.lake)
    add_encoder(places.lake, FAR, noise=0.0)
    assert main(["materialize", "--no-train"]) == 0
    assert main(["encoders", "promote", older, "--by", "ada", "--why", "viewers\nliked it better"]) == 0
    row = decisions(places.lake)[-1]
    assert (row["encoder_version"], row["by"], row["why"]) == (older, "ada", "viewers liked it better")
    assert main(["materialize", "--no-train"]) == 0
    assert in_use(places.lake) == older
    assert set(places.lake.read_whole("scenes")["encoder_version"]) == {older}
    capsys.readouterr()
    main(["encoders"])
    assert [line.split()[1:3] for line in capsys.readouterr().out.splitlines()] == [["was", "in"], ["in", "use"]]


def test_a_held_encoder_comes_into_use_by_a_person_once_it_has_read_every_title(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    add_encoder(places.lake, FAR, noise=30.0)
    main(["materialize", "--no-train"])
    before = decisions(places.lake)
    assert main(["encoders", "promote", FAR, "--by", "ada", "--why", "it is a trial"]) == 1
    assert f"run `mediafm encoders embed {FAR}` first" in capsys.readouterr().err
    assert decisions(places.lake) == before
    assert main(["encoders", "embed", FAR]) == 0
    assert "6 titles read" in capsys.readouterr().out
    assert main(["encoders", "embed", FAR]) == 0
    assert "0 titles read" in capsys.readouterr().out, "nothing is made twice"
    assert main(["encoders", "promote", FAR, "--by", "ada", "--why", "it is a trial"]) == 0
    assert in_use(places.lake) == FAR


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["promote", "20990101T000000Z-00000000", "--by", "a", "--why", "b"], "there is no encoder 20990101T"),
        (["promote", "../../etc\n", "--by", "a", "--why", "b"], r"there is no encoder ../../etc\n;"),
        (["compare", "nothing"], "there is no encoder nothing"),
        (["embed", "nothing"], "there is no encoder nothing"),
        (["promote", "THE ONE", "--by", " ", "--why", "b"], "take 1 to 500 characters"),
        (["promote", "THE ONE", "--by", "a", "--why", "b" * 501], "take 1 to 500 characters"),
    ],
)
def test_what_cannot_be_promoted_is_refused_in_words_and_changes_nothing(
    places: Places, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    before = decisions(places.lake)
    asked = [argument.replace("THE ONE", before[0]["encoder_version"]) for argument in arguments]
    assert main(["encoders", *asked]) == 1
    assert said in capsys.readouterr().err
    assert decisions(places.lake) == before


def test_an_encoder_of_other_spaces_is_refused(
    places: Places, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = in_use(places.lake)
    monkeypatch.setenv("MEDIAFM_FUSION", "as_published")
    assert main(["encoders", "promote", version, "--by", "ada", "--why", "a trial"]) == 1
    assert "reads other embedding spaces than are configured" in capsys.readouterr().err


def test_a_title_that_cannot_be_read_holds_up_no_other(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    add_encoder(places.lake, FAR, noise=0.0)
    title = max(title for (title,) in places.lake.data_versions("titles"))
    for file in places.lake.partition_files("fused_embeddings", {"title_id": title}):
        size = os.path.getsize(file)
        Path(file).write_bytes(b"\0" * size)  # as long as before, and nothing in it
    assert main(["encoders", "embed", FAR]) == 1
    said = capsys.readouterr().out
    assert f"{title}: contextual_embeddings: " in said
    assert "5 titles read" in said
    assert main(["encoders", "promote", FAR, "--by", "ada", "--why", "a trial"]) == 1
    assert f"has not read 1 titles as they are now ({title})" in capsys.readouterr().err


def test_an_older_encoder_reads_a_changed_title_anew_before_it_comes_back(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    older = in_use(places.lake)
    add_encoder(places.lake, FAR, noise=0.0)
    assert main(["materialize", "--no-train"]) == 0
    title = min(title for (title,) in places.lake.data_versions("titles"))
    fused = places.lake.read("fused_embeddings", title_id=title)
    places.lake.write("fused_embeddings", {"title_id": title}, fused, "f" * 32)  # as of another film
    asked = ["encoders", "promote", older, "--by", "ada", "--why", "a trial"]
    assert main(asked) == 1
    assert f"has not read 1 titles as they are now ({title})" in capsys.readouterr().err
    assert in_use(places.lake) == FAR
    assert main(["encoders", "embed", older]) == 0
    assert main(asked) == 0


def test_readers_see_one_whole_generation_while_encoders_come_and_go(places: Places) -> None:
    older = in_use(places.lake)
    add_encoder(places.lake, FAR, noise=0.0)
    assert main(["materialize", "--no-train"]) == 0
    expected = len(places.lake.read_whole("fused_embeddings"))
    uri = places.lake.uri
    stop = places.root / "stop"

    def read(_: int) -> list[tuple[str, int]]:
        seen = []
        while not stop.exists() or not seen:
            chosen = in_use(DeltaLake(uri=uri))
            rows = pl.scan_delta(f"{uri}/contextual_embeddings").filter(pl.col("encoder_version") == chosen)
            seen.append((chosen, rows.select(pl.len()).collect().item()))
        return seen

    with ThreadPoolExecutor(3) as readers:
        running = [readers.submit(read, number) for number in range(3)]
        for turn in range(4):
            version = (older, FAR)[turn % 2]
            assert main(["encoders", "promote", version, "--by", "ada", "--why", f"turn {turn}"]) == 0
        stop.touch()
        seen = {answer for each in running for answer in each.result()}
    assert {count for _, count in seen} == {expected}
    assert {version for version, _ in seen} == {older, FAR}


def test_old_generations_go_but_never_the_one_in_use(places: Places) -> None:
    lake, first = places.lake, in_use(places.lake)
    add_encoder(lake, FAR, noise=0.0)
    assert main(["encoders", "embed", FAR]) == 0
    add_encoder(lake, LATER, noise=0.0)
    assert main(["encoders", "embed", LATER]) == 0
    freed = retire(lake, decisions(lake), keep=1)
    assert freed.keys() == {FAR}
    assert freed[FAR] > 0
    assert {version for version, _ in lake.data_versions("contextual_embeddings")} == {first, LATER}
    assert (FAR,) in lake.data_versions("encoder"), "what it was stays on record"
    assert retire(lake, decisions(lake), keep=1) == {}


def test_a_lake_from_before_there_was_a_gate_goes_on_with_its_newest_encoder(places: Places) -> None:
    version = in_use(places.lake)
    made = places.lake.data_versions("contextual_embeddings")
    shutil.rmtree(places.root / "lake" / "encoder_promotions")
    assert main(["materialize", "--no-train"]) == 0
    assert in_use(places.lake) == version
    assert places.lake.data_versions("contextual_embeddings") == made
