import dataclasses
import json
from pathlib import Path

import pytest

from model.config import Config
from model.run_folder import RunFolder
from model.store import Store
from model.train import train

TITLES = {f"title-{n:02d}": "1" for n in range(12)}


@pytest.fixture
def finished(tmp_path: Path, store: Store, small: Config) -> RunFolder:
    """A run that has been trained."""
    run = RunFolder(tmp_path / "first")
    run.begin(small, TITLES, None)
    train(small, store.path, run.path, None, lambda _: None)
    return run


def test_a_training_leaves_what_the_run_folder_says(finished: RunFolder) -> None:
    for file in (finished.config, finished.titles, finished.log, finished.metrics, finished.export / "config.json"):
        assert file.is_file(), file
    assert finished.checkpoints.is_dir()
    assert finished.read_metrics()["finished"]


def test_the_next_run_starts_from_a_finished_one_of_the_same_recipe(
    finished: RunFolder, small: Config, tmp_path: Path
) -> None:
    more = TITLES | {"title-99": "1"}
    following = RunFolder(tmp_path / "next")
    following.begin(small, more, finished)
    assert (following.init / "model.safetensors").read_bytes() == (finished.export / "model.safetensors").read_bytes()
    assert json.loads(following.titles.read_text()) == more
    assert Config.from_json(following.config.read_text()) == small


def test_a_run_does_not_start_from_another_recipe_other_titles_or_an_unfinished_one(
    finished: RunFolder, small: Config, tmp_path: Path
) -> None:
    assert finished.can_start(small, TITLES)
    assert not finished.can_start(dataclasses.replace(small, layers=3), TITLES)
    assert not finished.can_start(small, TITLES | {"title-00": "2"})
    assert not RunFolder(tmp_path / "nowhere").can_start(small, TITLES)
    finished.metrics.unlink()
    assert not finished.can_start(small, TITLES)


def test_a_run_whose_configuration_was_written_before_widths_were_part_of_it_can_be_started_from(
    finished: RunFolder, small: Config
) -> None:
    written = json.loads(finished.config.read_text())
    del written["modalities"]
    finished.config.write_text(json.dumps(written))
    assert finished.can_start(small, TITLES)


def test_a_retry_goes_on_as_the_first_try_began(tmp_path: Path, small: Config) -> None:
    run = RunFolder(tmp_path / "run")
    run.begin(small, TITLES, None)
    run.begin(dataclasses.replace(small, layers=3), {}, None)
    assert Config.from_json(run.config.read_text()) == small
    assert json.loads(run.titles.read_text()) == TITLES
