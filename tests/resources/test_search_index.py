import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources import search_index
from resources.search_index import IndexedTitle, OtherSpace, SearchIndex

pytest.importorskip("lancedb")
WIDTH = 2304


def title(title_id: str, shots: int = 5, version: str = "1", seed: int = 0, absent: str = "") -> IndexedTitle:
    """Random unit vectors in three blocks of equal norm; the first shot has nothing of the absent modality."""
    rng = np.random.default_rng([seed, *title_id.encode()])
    blocks = rng.standard_normal((shots, 3, 768))
    if absent:
        blocks[0, search_index.BLOCKS[1:].index(absent)] = 0
    norms = np.linalg.norm(blocks, axis=2, keepdims=True)
    blocks = np.divide(blocks, norms, out=np.zeros_like(blocks), where=norms > 0)
    fused = blocks.reshape(shots, WIDTH)
    fused /= np.linalg.norm(fused, axis=1, keepdims=True)
    start_s = np.arange(shots) * 2.0
    return IndexedTitle(title_id, version, np.arange(shots), start_s, start_s + 2, fused.astype(np.float32))


@pytest.fixture
def index(tmp_path: Path) -> SearchIndex:
    return SearchIndex.open(str(tmp_path / "index"), "space")


def found(index: SearchIndex, of: IndexedTitle, shot: int, k: int = 100, **options: Any) -> list[tuple[str, int]]:
    return [(hit.title_id, hit.shot_index) for hit in index.nearest(of.fused[shot], k, **options)]


def test_the_nearest_shot_to_a_shot_is_itself_with_its_times_and_each_modalitys_part(index: SearchIndex) -> None:
    titles = [title("a"), title("b", absent="text")]
    index.upsert(titles)
    hit = index.nearest(titles[0].fused[3], 1)[0]
    assert hit[:4] == ("a", 3, 6.0, 8.0)
    assert hit.score == pytest.approx(1, abs=1e-5)
    assert hit.parts == pytest.approx({"video": 1 / 3, "audio": 1 / 3, "text": 1 / 3}, abs=1e-5)
    quiet = index.nearest(titles[1].fused[0], 1)[0]
    assert quiet.parts == pytest.approx({"video": 0.5, "audio": 0.5}, abs=1e-5)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), k=st.integers(1, 30), block=st.sampled_from(search_index.BLOCKS))
def test_a_small_index_answers_exactly_by_every_block(tmp_path: Path, seed: int, k: int, block: str) -> None:
    index = SearchIndex.open(str(tmp_path / f"{seed}-{k}-{block}"), "space")
    titles = [title(name, 6, seed=seed, absent="audio") for name in ("a", "b", "c")]
    index.upsert(titles)
    rows = np.concatenate([each.fused for each in titles])
    if block != "fused":
        start = search_index.BLOCKS[1:].index(block) * 768
        rows = rows[:, start : start + 768]
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    query = np.random.default_rng(seed).standard_normal(rows.shape[1])
    query /= np.linalg.norm(query)
    scores = np.where(rows.any(axis=1), rows @ query, -np.inf)
    hits = index.nearest(query, k, block)
    assert len(hits) == min(k, int(np.isfinite(scores).sum()))
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1][: len(hits)], atol=1e-5)


def test_a_title_that_comes_again_replaces_its_rows_also_when_it_is_shorter(index: SearchIndex) -> None:
    index.upsert([title("a", 9), title("b")])
    again = title("a", 4, version="2", seed=1)
    index.upsert([again])
    assert index.stored() == {"a": "2", "b": "1"}
    assert len(index) == 9
    assert sorted(found(index, again, 0)) == [("a", shot) for shot in range(4)] + [("b", shot) for shot in range(5)]
    assert found(index, again, 2, k=1) == [("a", 2)]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 4), st.sampled_from(["optimise", "go on"])), max_size=8
    ),
    number=st.uuids(),
)
def test_after_any_sequence_of_changes_it_holds_what_the_last_ones_said(
    tmp_path: Path, steps: list[tuple[str, int, str]], number: Any
) -> None:
    index = SearchIndex.open(str(tmp_path / str(number)), "space")
    expected: dict[str, int] = {}
    for step, (name, shots, then) in enumerate(steps):
        if shots:
            index.upsert([title(name, shots, version=f"{step}")])
            expected[name] = shots
        else:
            index.remove(name)
            expected.pop(name, None)
        if then == "optimise":
            index.optimise()
    rows = sorted(found(index, title("q"), 0))
    assert rows == sorted((name, shot) for name, shots in expected.items() for shot in range(shots))
    assert index.stored().keys() == expected.keys()


def test_a_removed_title_is_found_no_more_and_removing_it_again_is_no_error(index: SearchIndex) -> None:
    index.upsert([title("a"), title("b")])
    for _ in range(2):
        index.remove("a")
    assert {name for name, _ in found(index, title("a"), 0)} == {"b"}


def test_a_query_can_be_kept_to_titles(index: SearchIndex) -> None:
    index.upsert([title("a"), title("b"), title("c")])
    assert {name for name, _ in found(index, title("a"), 0, titles=["b", "c"])} == {"b", "c"}
    assert found(index, title("a"), 0, titles=["nobody"]) == []
    assert found(index, title("a"), 0, titles=[]) == []


def test_an_empty_index_finds_nothing(index: SearchIndex) -> None:
    index.optimise()
    assert found(index, title("a"), 0) == []
    assert index.stored() == {}


def test_an_index_of_another_space_is_refused_in_one_sentence_and_can_be_made_anew(tmp_path: Path) -> None:
    uri = str(tmp_path / "index")
    SearchIndex.open(uri, "old").upsert([title("a")])
    with pytest.raises(OtherSpace, match=r"space 'old'.*'new' in format 1 is needed\.$") as refused:
        SearchIndex.open(uri, "new")
    assert "\n" not in str(refused.value)
    assert SearchIndex.open(uri, "old").stored() == {"a": "1"}
    assert SearchIndex.anew(uri, "new").stored() == {}
    assert SearchIndex.open(uri, "new").stored() == {}


def test_another_process_sees_a_change_without_opening_the_index_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_index, "LOOK_AGAIN_S", 0)
    uri = str(tmp_path / "index")
    reader, writer = SearchIndex.open(uri, "space"), SearchIndex.open(uri, "space")
    writer.upsert([title("a")])
    assert found(reader, title("a"), 1, k=1) == [("a", 1)]
    writer.remove("a")
    assert found(reader, title("a"), 1) == []


def test_a_process_killed_at_any_moment_of_writing_leaves_whole_titles(tmp_path: Path) -> None:
    program = """
        import sys
        sys.path.insert(0, {tests!r})
        from test_search_index import title
        from resources.search_index import SearchIndex
        index = SearchIndex.open({uri!r}, "space")
        print("open", flush=True)
        for turn in range(10_000):
            index.upsert([title("a", 400 + turn % 2 * 300, version=str(400 + turn % 2 * 300))])
            index.upsert([title("b", 300)])
            index.remove("b")
    """
    uri = str(tmp_path / "index")
    SearchIndex.open(uri, "space").upsert([title("a", 400, version="400")])
    program = textwrap.dedent(program).format(tests=str(Path(__file__).parent), uri=uri)
    for wait_s in (0.05, 0.3, 0.7):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=os.environ.copy())
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(wait_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        index = SearchIndex.open(uri, "space")
        shots = int(index.stored()["a"])
        assert len(index) in (shots, shots + 300)
        index.upsert([title("a", 400, version="400")])
        assert index.stored()["a"] == "400"


def test_above_the_exact_size_the_index_finds_what_exact_search_finds(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = [title(f"title-{number}", 300, absent="text") for number in range(4)]
    index.upsert(titles)
    queries = [(each, shot) for each in titles for shot in (1, 100, 299)]
    exact = {block: [_by(index, block, *query) for query in queries] for block in search_index.BLOCKS}
    monkeypatch.setattr(search_index, "EXACT_BELOW", 500)
    index.optimise()
    assert {column for made in index._table.list_indices() for column in made.columns} >= set(search_index.BLOCKS)
    late = title("late", 20)
    index.upsert([late])
    index.remove("title-3")
    assert found(index, late, 7, k=1) == [("late", 7)]
    assert not {name for name, _ in found(index, titles[3], 0, k=50)} & {"title-3"}
    for block in search_index.BLOCKS:
        for query, right in zip(queries[:9], exact[block][:9], strict=True):
            assert _by(index, block, *query)[0] == right[0]
    index.optimise()
    assert found(index, late, 7, k=1) == [("late", 7)]


def _by(index: SearchIndex, block: str, of: IndexedTitle, shot: int) -> list[tuple[str, int]]:
    start = search_index.BLOCKS.index(block) - 1
    query = of.fused[shot] if block == "fused" else of.fused[shot, start * 768 : (start + 1) * 768]
    return [(hit.title_id, hit.shot_index) for hit in index.nearest(query, 5, block)]


@pytest.mark.parametrize("title_id", ["", "a' OR '1'='1", "../a", "a\n", "ü", "a" * 129])
def test_what_is_no_title_id_never_reaches_a_predicate(index: SearchIndex, title_id: str) -> None:
    index.upsert([title("a")])
    with pytest.raises(ValueError, match="no title id"):
        index.remove(title_id)
    with pytest.raises(ValueError, match="no title id"):
        index.upsert([title("a")._replace(title_id=title_id)])
    with pytest.raises(ValueError, match="no title id"):
        index.nearest(np.ones(WIDTH), 1, titles=[title_id])
    assert index.stored() == {"a": "1"}


def test_vectors_and_queries_that_do_not_fit_are_refused_and_nothing_is_written(index: SearchIndex) -> None:
    good = title("a")
    broken = good.fused.copy()
    broken[2, 5] = np.nan
    for bad in (
        good._replace(fused=broken),
        good._replace(fused=good.fused[:, :10]),
        good._replace(fused=good.fused[:2]),
        good._replace(shot_index=np.zeros(5, dtype=int)),
        title("a", 0),
    ):
        with pytest.raises(ValueError, match=r"^a: "):
            index.upsert([bad])
    assert len(index) == 0
    for options in ({"k": 0}, {"block": "contextual"}, {"block": "text"}):
        with pytest.raises(ValueError):
            index.nearest(np.ones(WIDTH), **{"k": 1, **options})
    with pytest.raises(ValueError, match="finite"):
        index.nearest(np.full(WIDTH, np.inf), 1)


def test_it_lives_in_an_object_store_too(bucket: Any) -> None:
    index = SearchIndex.open("s3://films/index", "space", {"allow_http": "true"})
    index.upsert([title("a"), title("b")])
    index.upsert([title("a", 3, version="2")])
    index.remove("b")
    assert SearchIndex.open("s3://films/index", "space", {"allow_http": "true"}).stored() == {"a": "2"}
    assert found(index, title("a", 3), 1, k=1) == [("a", 1)]
