"""Somebody's own vectors: docs/own_vectors.md is followed to the letter, and what does not fit is refused by name."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.inference import main as inference
from model.own_vectors import OwnVectors
from model.store import Store
from model.train import main as train

ROOT = Path(__file__).parents[2]
QUICK = {"layers": 1, "hidden": 16, "heads": 2, "max_steps": 4, "evaluate_every": 2, "precision": "fp32"}


def written(folder: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
    """Six titles of two modalities, with titles' own vectors, and the index changed as asked."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    titles = []
    for n in range(6):
        vectors = rng.standard_normal((9, 5)).astype(np.float32)
        vectors[::2, 3:] = 0
        vectors[4] = 0
        np.save(folder / f"{n}.npy", vectors)
        np.save(folder / f"{n}.title.npy", rng.standard_normal(7))
        titles.append({"title_id": f"t{n}", "vectors": f"{n}.npy", "title_vector": f"{n}.title.npy"})
    index = {"modalities": [["pose", 3], ["smell", 2]], "titles": titles}
    change(index)
    (folder / "vectors.json").write_text(json.dumps(index))
    return folder


def test_the_how_to_does_what_it_says(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "own_vectors.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.S)
    (commands,) = re.findall(r"```sh\n(.*?)```", text, re.S)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    for command in commands.strip().splitlines():
        python, *arguments = command.split()
        assert python == "python"
        if "model.train" in command:  # shorter than a reader's
            (tmp_path / "quick.json").write_text(json.dumps(QUICK | {"hidden": 256, "heads": 4}))
            arguments += ["--config", "quick.json"]
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    states = np.load(tmp_path / "contextual" / "film-0.npy")
    assert (states.shape, states.dtype) == ((40, 256 + 24), np.float32)
    assert np.isfinite(states).all()
    assert "skill" in json.loads((tmp_path / "run" / "metrics.json").read_text())["validation"]


def test_vectors_become_fused_ones_with_zeros_where_a_shot_has_nothing(tmp_path: Path) -> None:
    own = OwnVectors.open(written(tmp_path / "own"))
    store = own.update_store(tmp_path / "store")
    assert store.modalities == (("pose", 3), ("smell", 2))
    assert store.global_dim == 7
    rows = store.read(store.entries[0], 0, 9).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 1, 1, 0, 1, 1, 1, 1], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(rows[1, :3]), 0.5**0.5, atol=1e-3)
    assert store.empty(store.entries[0], 0, 9).tolist() == [n == 4 for n in range(9)]


def test_only_titles_whose_files_have_changed_are_read_again(tmp_path: Path) -> None:
    folder = written(tmp_path / "own")
    first = {e.title_id: e for e in OwnVectors.open(folder).update_store(tmp_path / "store").entries}
    np.save(folder / "3.npy", np.ones((2, 5)))
    second = {e.title_id: e for e in OwnVectors.open(folder).update_store(tmp_path / "store").entries}
    assert [title for title in first if first[title] != second[title]] == ["t3"]
    assert second["t3"].shots == 2
    assert len(Store.open(tmp_path / "store")) == 6


def test_trained_and_read_in_context_with_titles_vectors(tmp_path: Path) -> None:
    folder = written(tmp_path / "own")
    (tmp_path / "quick.json").write_text(json.dumps(QUICK))
    options = [str(folder), "--out", str(tmp_path / "run"), "--config", str(tmp_path / "quick.json")]
    assert train(options) == 0
    assert inference([str(tmp_path / "run" / "export"), str(folder), "--out", str(tmp_path / "read")]) == 0
    assert sorted(file.name for file in (tmp_path / "read").iterdir()) == [f"{n}.npy" for n in range(6)]
    assert np.load(tmp_path / "read" / "5.npy").shape == (9, 16 + 5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda index: index.pop("titles"), "list of titles"),
        (lambda index: index.pop("modalities"), "modalities must be a list"),
        (lambda index: index.update(modalities=[["pose", -1]]), "modalities holds"),
        (lambda index: index["titles"][2].update(vectors="../2.npy"), "no .npy file in this folder"),
        (lambda index: index["titles"][2].update(vectors="gone.npy"), "gone.npy is no .npy file"),
        (lambda index: index["titles"][2].update(vectors="1.npy"), "the same vectors"),
        (lambda index: index["titles"][2].update(title_id="t1"), "the same title_id"),
        (lambda index: index["titles"][2].pop("title_vector"), "either all have one"),
        (lambda index: index["titles"][2].update(colour="red"), "perhaps title_vector and group"),
        (lambda index: index["titles"][2].update(group=3), "what a title has is text"),
    ],
)
def test_an_index_that_cannot_be_used_is_refused_by_name(tmp_path: Path, change: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        OwnVectors.open(written(tmp_path / "own", change))


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.ones((4, 6)), r"Title t2: 2.npy has shape \(4, 6\); \(n, 5\)"),
        (np.ones((0, 5)), r"Title t2: 2.npy has shape \(0, 5\)"),
        (np.ones(5), "2-d floats are needed"),
        (np.ones((4, 5), dtype=int), "holds int64"),
        (np.full((4, 5), np.nan), "Title t2: The pose embedding of shot 0 holds NaN"),
        (np.array([[{"pickled": 1}]]), "Title t2: 2.npy is no array of numbers"),
    ],
)
def test_an_unusable_array_is_refused_with_its_title(tmp_path: Path, array: np.ndarray, sentence: str) -> None:
    folder = written(tmp_path / "own")
    np.save(folder / "2.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=sentence):
        OwnVectors.open(folder).update_store(tmp_path / "store")
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_vectors_of_other_blocks_than_the_encoders_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path / "own")
    (tmp_path / "quick.json").write_text(json.dumps(QUICK))
    assert train([str(folder), "--out", str(tmp_path / "run"), "--config", str(tmp_path / "quick.json")]) == 0
    other = written(tmp_path / "other", lambda index: index.update(modalities=[["pose", 2], ["smell", 3]]))
    assert inference([str(tmp_path / "run" / "export"), str(other), "--out", str(tmp_path / "read")]) == 1
    assert "are pose 2, smell 3, and the encoder reads pose 3, smell 2" in capsys.readouterr().out
    assert inference([str(tmp_path / "run" / "export"), str(folder), "--out", str(folder)]) == 1
    assert "would be overwritten" in capsys.readouterr().out
