import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from model.modalities import WIDTHS
from model.store import Store, StoredTitle

Make = Callable[..., StoredTitle]


def content(store: Store) -> dict[str, np.ndarray]:
    return {entry.title_id: store.read(entry, 0, entry.shots) for entry in store.entries}


def files(path: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in path.iterdir() if file.name not in ("lock", "manifest.json")}


def test_what_was_stored_is_read_back_in_half_precision(tmp_path: Path, make_title: Make) -> None:
    titles = [make_title(i, 5 + i, series_id="s" if i else None) for i in range(3)]
    Store.update(tmp_path, titles, source="fused_embeddings@7")
    store = Store.open(tmp_path)
    assert (store.space, store.source, store.global_dim, len(store), store.shots) == (
        "test-space", "fused_embeddings@7", 16, 3, 18,
    )  # fmt: skip
    for entry, given in zip(store.entries, titles, strict=True):
        assert (entry.title_id, entry.series_id, entry.version) == (given.title_id, given.series_id, given.version)
        np.testing.assert_allclose(store.read(entry, 0, entry.shots), given.vectors, atol=1e-4)
        np.testing.assert_array_equal(store.read(entry, 2, 4), store.read(entry, 0, entry.shots)[2:4])
        np.testing.assert_allclose(store.global_embedding(entry), given.global_embedding, rtol=1e-6)


def test_adding_titles_rewrites_none_that_were_there(tmp_path: Path, make_title: Make) -> None:
    Store.update(tmp_path, [make_title(i, 10) for i in range(3)])
    before, old = files(tmp_path), content(Store.open(tmp_path))
    store = Store.update(tmp_path, [make_title(3, 10)], keep=Store.versions(tmp_path))
    assert len(store) == 4
    assert files(tmp_path).items() > before.items()
    for title_id, vectors in old.items():
        np.testing.assert_array_equal(content(store)[title_id], vectors)


def test_a_title_that_is_neither_given_nor_kept_goes_and_a_new_version_replaces_the_old(
    tmp_path: Path, make_title: Make
) -> None:
    Store.update(tmp_path, [make_title(i, 10) for i in range(4)])
    changed = make_title(1, 12, version="2")
    store = Store.update(tmp_path, [changed], keep={("title-00", "1"), ("title-02", "1")})
    assert Store.versions(tmp_path) == {("title-00", "1"), ("title-01", "2"), ("title-02", "1")}
    np.testing.assert_allclose(content(store)["title-01"], changed.vectors, atol=1e-4)


def test_a_shard_that_is_mostly_gone_is_rewritten_and_its_space_freed(tmp_path: Path, make_title: Make) -> None:
    Store.update(tmp_path, [make_title(i, 10) for i in range(10)])
    old = content(Store.open(tmp_path))
    store = Store.update(tmp_path, [], keep={("title-03", "1"), ("title-07", "1")})
    assert sum(file.stat().st_size for file in tmp_path.glob("*.vectors")) == 20 * 2304 * 2
    for title_id in ("title-03", "title-07"):
        np.testing.assert_array_equal(content(store)[title_id], old[title_id])
    np.testing.assert_allclose(store.global_embedding(store.entries[1]), make_title(7, 10).global_embedding, rtol=1e-6)


def test_a_reader_keeps_its_version_while_the_store_is_updated(tmp_path: Path, make_title: Make) -> None:
    reader = Store.update(tmp_path, [make_title(0, 10), make_title(1, 10)])
    old = content(reader)
    Store.update(tmp_path, [make_title(2, 10)])
    np.testing.assert_array_equal(content(reader)["title-00"], old["title-00"])


def test_the_fingerprint_depends_on_the_content_and_not_on_how_it_came(tmp_path: Path, make_title: Make) -> None:
    at_once = Store.update(tmp_path / "a", [make_title(0, 10), make_title(1, 10)])
    Store.update(tmp_path / "b", [make_title(1, 10)])
    in_turn = Store.update(tmp_path / "b", [make_title(0, 10)], keep={("title-01", "1")})
    assert at_once.fingerprint == in_turn.fingerprint
    other = Store.update(tmp_path / "b", [make_title(0, 10, version="2")], keep={("title-01", "1")})
    assert other.fingerprint != in_turn.fingerprint


def changed(given: StoredTitle, **change: object) -> StoredTitle:
    return dataclasses.replace(given, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda t: changed(t, vectors=np.where(np.arange(10)[:, None] == 4, np.nan, t.vectors)), "NaN .* shot 4"),
        (lambda t: changed(t, vectors=t.vectors[:, :768]), r"shape \(10, 768\)"),
        (lambda t: changed(t, vectors=t.vectors[:0]), r"shape \(0, 2304\)"),
        (lambda t: changed(t, vectors=3 * t.vectors), "norm 3"),
        (lambda t: changed(t, global_embedding=np.zeros(17)), "global embedding of shape"),
        (lambda t: changed(t, global_embedding=np.full(16, np.inf)), "NaN or infinity in its global"),
        (lambda t: changed(t, title_id="title-00"), "title-00 was given to the store twice"),
        (lambda t: changed(t, space="other-space"), "two embedding spaces .* title-05.*Rematerialise"),
    ],
)
def test_unusable_titles_are_refused_by_name_and_the_store_stays(
    tmp_path: Path, make_title: Make, wrong: Callable[[StoredTitle], StoredTitle], sentence: str
) -> None:
    Store.update(tmp_path, [make_title(0, 10)])
    before, manifest = files(tmp_path), (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match=sentence):
        Store.update(tmp_path, [make_title(1, 10), wrong(make_title(5, 10))], keep={("title-00", "1")})
    assert files(tmp_path) == before
    assert (tmp_path / "manifest.json").read_bytes() == manifest


def test_a_catalogue_moves_to_another_space_only_as_a_whole(tmp_path: Path, make_title: Make) -> None:
    Store.update(tmp_path, [make_title(0, 5), make_title(1, 5)])
    store = Store.update(tmp_path, [make_title(i, 5, space="other-space", version="2") for i in range(2)])
    assert store.space == "other-space"


def test_a_store_of_no_titles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one title"):
        Store.update(tmp_path, [])
    with pytest.raises(ValueError, match="no store of fused vectors"):
        Store.open(tmp_path)
    assert Store.versions(tmp_path) == set()


def test_keeping_what_is_not_there_is_refused(tmp_path: Path, make_title: Make) -> None:
    Store.update(tmp_path, [make_title(0, 5)])
    with pytest.raises(ValueError, match="does not hold the version to keep of: title-00"):
        Store.update(tmp_path, [make_title(1, 5)], keep={("title-00", "2")})


def test_a_damaged_store_says_so(tmp_path: Path, make_title: Make) -> None:
    Store.update(tmp_path, [make_title(0, 5)])
    shard = next(tmp_path.glob("*.vectors"))
    os.truncate(shard, 2304 * 2 * 3)
    with pytest.raises(ValueError, match="damaged"):
        Store.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        Store.open(tmp_path)


def test_a_killed_update_leaves_the_store_as_it_was_and_the_next_one_cleans_up(
    tmp_path: Path, make_title: Make
) -> None:
    Store.update(tmp_path, [make_title(0, 5)])
    dying = """
import os, signal, sys, numpy as np
from model.store import Store, StoredTitle
def titles():
    v = np.zeros((2000, 2304), dtype=np.float32); v[:, 0] = 1
    yield StoredTitle("new", None, "1", "test-space", v, np.zeros(16))
    os.kill(os.getpid(), signal.SIGKILL)
Store.update(sys.argv[1], titles(), keep={("title-00", "1")})
"""
    done = subprocess.run([sys.executable, "-c", dying, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert len(list(tmp_path.glob("*.vectors"))) == 2
    assert Store.versions(tmp_path) == {("title-00", "1")}
    Store.update(tmp_path, [make_title(1, 5)], keep={("title-00", "1")})
    assert sorted(content(Store.open(tmp_path))) == ["title-00", "title-01"]
    assert len(list(tmp_path.glob("*.vectors"))) == 2


def test_a_full_disk_leaves_the_store_as_it_was(tmp_path: Path, make_title: Make) -> None:
    Store.update(tmp_path, [make_title(0, 5)])
    limited = """
import resource, signal, sys, numpy as np
from model.store import Store, StoredTitle
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
v = np.zeros((2000, 2304), dtype=np.float32); v[:, 0] = 1
Store.update(sys.argv[1], [StoredTitle("new", None, "1", "test-space", v, np.zeros(16))], keep={("title-00", "1")})
"""
    done = subprocess.run([sys.executable, "-c", limited, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "OSError" in done.stderr
    assert sorted(content(Store.open(tmp_path))) == ["title-00"]
    assert len(list(tmp_path.glob("*.vectors"))) == 1


def test_a_store_is_read_without_staying_resident(tmp_path: Path) -> None:
    def titles() -> Iterator[StoredTitle]:
        vectors = np.zeros((2000, 2304), dtype=np.float32)
        vectors[:, 0] = 1
        for i in range(20):
            yield StoredTitle(f"t{i}", None, "1", "s", vectors, np.zeros(4))

    Store.update(tmp_path, titles())
    reading = """
import re, sys
from model.store import Store
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])
store = Store.open(sys.argv[1])
before = resident()
for entry in store.entries:
    store.read(entry, 0, entry.shots)
print(before, resident())
"""
    done = subprocess.run([sys.executable, "-c", reading, str(tmp_path)], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert json.loads((tmp_path / "manifest.json").read_text())["titles"][-1]["shots"] == 2000
    assert after - before < 40_000, "184 MB were read, and 9 MB at a time are needed"


def sparse(title_id: str = "sparse", widths: tuple[tuple[str, int], ...] = WIDTHS) -> StoredTitle:
    """Six shots, the second and the fifth without any modality."""
    vectors = np.random.default_rng(3).standard_normal((6, sum(width for _, width in widths)))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[[1, 4]] = 0
    return StoredTitle(title_id, None, "1", "test-space", vectors, np.ones(16))


def test_shots_without_any_modality_are_stored_as_zeros_and_known(
    tmp_path: Path, make_title: Callable[..., StoredTitle]
) -> None:
    Store.update(tmp_path, [sparse(), make_title(0, 5)])
    store = Store.open(tmp_path)
    entries = {entry.title_id: entry for entry in store.entries}
    assert store.empty(entries["sparse"], 0, 6).tolist() == [False, True, False, False, True, False]
    assert store.empty(entries["sparse"], 1, 3).tolist() == [True, False]
    assert not store.read(entries["sparse"], 1, 2).any()
    assert not store.empty(entries["title-00"], 0, 5).any()


def test_a_store_holds_blocks_of_any_widths_and_says_which(tmp_path: Path) -> None:
    widths = (("pose", 3), ("smell", 5))
    store = Store.update(tmp_path, [sparse(widths=widths)], modalities=widths)
    assert Store.open(tmp_path).modalities == widths
    assert store.read(store.entries[0], 0, 6).shape == (6, 8)
    with pytest.raises(ValueError, match="other modalities"):
        Store.update(tmp_path, [], keep=[("sparse", "1")])
    with pytest.raises(ValueError, match=r"\(n, 2304\)"):
        Store.update(tmp_path, [sparse("other", widths)])


def test_a_store_written_before_it_knew_of_empty_shots_is_read(store: Store) -> None:
    manifest = json.loads((store.path / "manifest.json").read_text())
    del manifest["modalities"]
    (store.path / "manifest.json").write_text(json.dumps(manifest))
    for file in store.path.glob("*.empty"):
        file.unlink()
    earlier = Store.open(store.path)
    assert earlier.modalities == (("video", 768), ("audio", 768), ("text", 768))
    assert earlier.fingerprint == store.fingerprint
    entry = earlier.entries[0]
    assert not earlier.empty(entry, 0, entry.shots).any()
    np.testing.assert_array_equal(earlier.read(entry, 0, 5), store.read(store.entries[0], 0, 5))
