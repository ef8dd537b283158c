"""The boundary head in the graph: it makes scenes where it is better than none, and makes nothing stale where it is
not."""

import numpy as np
import pytest

from mediafm_assets.commands.cli import main
from mediafm_assets.defs.scenes import head_version, scenes
from model.boundary_head import Head, begins
from model.scene_finders import UNSUPERVISED
from model.scenes import scenes as found_without
from model.tasks import SCENES
from resources.lake import typed_rows, vectors
from tests.mediafm_assets.conftest import Places
from tests.mediafm_assets.title_runs import catalogue_of, made, run_of, titles_of


@pytest.fixture
def title(finished: Places) -> str:
    return titles_of(finished)[0]


def write_head(places: Places, usable: bool) -> Head:
    """A head that asks for what is found without labels alone, and is easily convinced, in the lake's place."""
    catalogue = catalogue_of(places)
    width = vectors(run_of(places).read("contextual_embeddings", titles_of(places)[0]), "last").shape[1]
    head = Head(np.append(np.zeros(3 * width), 0.5).astype(np.float32), 1.0, 1e-4)
    row = {**head._asdict(), "usable": usable, "reason": None if usable else "it is no better"}
    version = head_version(catalogue)
    assert version
    places.lake.write(
        "boundary_head", catalogue.partition("boundary_head"), typed_rows("boundary_head", [row]), version
    )
    return head


def test_a_head_says_what_it_is_worth_and_scenes_name_it_where_it_made_them(finished: Places) -> None:
    (row,) = finished.lake.read_whole("boundary_head").rows(named=True)
    assert row["gain"] == pytest.approx(row["average_precision"] - row["unsupervised"])
    assert row["usable"] == (row["gain_low"] > 0) == (row["weights"] is not None) == (row["reason"] is None)
    named = set(finished.lake.read_whole("scenes")["head_version"])
    assert named == {row["data_version"] if row["usable"] else None}


def test_a_head_that_is_no_better_is_as_none_and_titles_wait_until_one_says_so(places: Places, title: str) -> None:
    labels = places.lake.read("clip_labels", task=SCENES).drop("task", "data_version")
    places.lake.delete("clip_labels", {"task": SCENES})
    partition = catalogue_of(places).partition("boundary_head")
    places.lake.delete("boundary_head", partition)
    without = catalogue_of(places).made_now("scenes", title)
    assert without
    places.lake.write("clip_labels", {"task": SCENES}, labels, "e" * 32)
    assert catalogue_of(places).waits_for("scenes") == "boundary_head"
    write_head(places, usable=False)
    assert catalogue_of(places).made_now("scenes", title) == without
    assert catalogue_of(places).waits_for("scenes") is None
    write_head(places, usable=True)
    assert catalogue_of(places).made_now("scenes", title) not in (None, without)


def test_a_better_head_makes_scenes_that_name_it_until_its_labels_go(places: Places, title: str) -> None:
    head = write_head(places, usable=True)
    catalogue = catalogue_of(places)
    assert set(catalogue.stale(title)) <= {"scenes", "ad_breaks"}
    rows = made(scenes, places, title)
    assert set(rows["head_version"]) == {head_version(catalogue)}
    shots, context = (run_of(places).read(f"{name}_embeddings", title) for name in ("fused", "contextual"))
    blocks = {"video": slice(0, 768), "audio": slice(768, 1536), "text": slice(1536, 2304)}
    contextual = vectors(context, "last")
    by_name = {"contextual": contextual, **{name: vectors(shots)[:, block] for name, block in blocks.items()}}
    scores, first = begins(head, contextual, found_without([by_name[name] for name in UNSUPERVISED]).begins)
    assert rows["first_shot"].to_list() == first.tolist()
    assert rows["boundary_score"].to_list() == pytest.approx(scores[first].tolist())
    assert [*rows["last_shot"][:-1], len(scores)] == [*(rows["first_shot"][1:] - 1), rows["last_shot"][-1] + 1]
    places.lake.delete("clip_labels", {"task": SCENES})
    assert set(made(scenes, places, title)["head_version"]) == {None}


def test_scenes_follow_the_head_and_its_labels_and_nothing_else_does(places: Places) -> None:
    lake, partition = places.lake, catalogue_of(places).partition("boundary_head")
    fitted, files = lake.read("boundary_head", **partition), places.files()
    head = fitted.drop("encoder_version", "data_version").with_columns(usable=~fitted["usable"])
    if not fitted["usable"][0]:
        width = vectors(run_of(places).read("contextual_embeddings", titles_of(places)[0]), "last").shape[1]
        some = {"weights": np.zeros(3 * width + 1, np.float32), "bias": 1.0, "cutoff": 0.5}
        head = typed_rows("boundary_head", [{**head.row(0, named=True), **some}])
    lake.write("boundary_head", partition, head, fitted["data_version"][0])
    assert main(["materialize", "--no-train"]) == 0
    made = {name.split("/")[0] for name in places.files().keys() - files.keys()}
    assert made == {"boundary_head", "scenes", "ad_breaks"}  # the first by this test
    expected = fitted["data_version"][0] if head["usable"][0] else None
    assert set(lake.read_whole("scenes")["head_version"]) == {expected}
    (places.landing / "labels" / "scenes.jsonl").unlink()
    assert main(["materialize", "--no-train"]) == 0
    assert set(lake.read_whole("scenes")["head_version"]) == {None}
