import numpy as np
import pytest

from model.modalities import WIDTHS
from model.scene_finders import UNSUPERVISED, Shots, finders
from model.scenes import scenes

N = 24
NAMES = (*dict(WIDTHS), "fused", "contextual", "contextual_in_context")


@pytest.fixture
def shots() -> Shots:
    """Three scenes of eight shots; the tenth shot is the longest."""
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.normal(size=(3, 16)), 8, axis=0)
    vectors = {name: centres + 0.2 * rng.normal(size=(N, 16)) for name in NAMES}
    start_s = np.arange(N) * 1.0
    return Shots(vectors, start_s, start_s + np.where(np.arange(N) == 9, 2.0, 1.0))


def test_what_follows_the_content_finds_the_scenes_and_what_does_not_does_not(shots: Shots) -> None:
    found = {name: np.flatnonzero(find(shots)[1][1:]) + 1 for name, find in finders(NAMES, 2 / N).items()}
    assert found.pop("equal_distance").tolist() == [12]  # every twelfth shot; the one where the title begins is none
    assert 9 in found.pop("longest_shots")
    assert "+".join(UNSUPERVISED) in found
    assert [name for name, begins in found.items() if begins.tolist() != [8, 16]] == []


def test_several_representations_are_those_of_the_model(shots: Shots) -> None:
    scores, begins = finders(NAMES, 0.1)["+".join(UNSUPERVISED)](shots)
    expected = scenes([shots.vectors[name] for name in UNSUPERVISED])
    assert scores.tolist() == expected.begins.tolist()
    assert np.flatnonzero(begins).tolist() == expected.first.tolist()


def test_without_an_encoder_nothing_in_context_is_asked_for() -> None:
    names = finders([*dict(WIDTHS), "fused"], 0.1).keys()
    assert not [name for name in names if "contextual" in name]
    assert {"equal_distance", "longest_shots", "fused_neighbours", "video+audio+text"} <= names
