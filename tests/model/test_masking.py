import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import Config
from model.masking import WHOLE, mask_ratio, masked_count, training_mask, validation_mask

CONFIG = dataclasses.replace(Config.embedded(), modality_masking=0.0, global_dropout=0.0)


def full(n: int) -> np.ndarray:
    """n shots, each with some modality."""
    return np.zeros(n, dtype=bool)


@settings(deadline=None)
@given(st.integers(1, 512), st.integers(0, 10**6), st.integers(0, 31), st.sampled_from([1, 3, 7]))
def test_exactly_a_fifth_of_the_shots_is_masked_and_at_least_one(n: int, step: int, row: int, span: int) -> None:
    positions = training_mask(dataclasses.replace(CONFIG, mask_span=span), full(n), step, row).positions
    assert len(positions) == max(1, round(0.2 * n))
    assert len(set(positions.tolist())) == len(positions)
    assert (np.diff(positions) > 0).all()
    assert positions[0] >= 0
    assert positions[-1] < n


def test_a_mask_is_a_function_of_seed_step_and_row_alone() -> None:
    first = training_mask(CONFIG, full(200), 5, 3).positions
    training_mask(CONFIG, full(77), 8, 1)
    np.random.seed(1)
    assert (training_mask(CONFIG, full(200), 5, 3).positions == first).all()
    for other in (
        training_mask(CONFIG, full(200), 6, 3),
        training_mask(CONFIG, full(200), 5, 4),
        training_mask(CONFIG, full(200), 3, 5),
        training_mask(dataclasses.replace(CONFIG, seed=1), full(200), 5, 3),
    ):
        assert other.positions.tolist() != first.tolist()


def test_every_shot_is_masked_equally_often() -> None:
    counts = np.zeros(50)
    for step in range(2000):
        counts[training_mask(CONFIG, full(50), step, 0).positions] += 1
    # 2000 draws of probability 0.2: mean 400, standard deviation 18.
    assert np.abs(counts - 400).max() < 5 * 18


def test_span_masking_masks_runs() -> None:
    alone = training_mask(CONFIG, full(500), 0, 0).positions
    spans = training_mask(dataclasses.replace(CONFIG, mask_span=10), full(500), 0, 0).positions
    assert (np.diff(spans) == 1).mean() > 0.8 > 0.4 > (np.diff(alone) == 1).mean()


def test_the_mask_ratio_moves_linearly_when_asked_to() -> None:
    config = dataclasses.replace(CONFIG, mask_ratio=0.1, mask_ratio_end=0.5, max_steps=100)
    assert [mask_ratio(config, step) for step in (0, 50, 100, 200)] == pytest.approx([0.1, 0.3, 0.5, 0.5])
    assert len(training_mask(config, full(100), 50, 0).positions) == 30
    assert len(validation_mask(config, full(100), 0).positions) == 10


def test_validation_masks_stay_and_are_none_of_the_training_masks() -> None:
    first = validation_mask(CONFIG, full(100), 4)
    assert (validation_mask(CONFIG, full(100), 4).positions == first.positions).all()
    masks = [training_mask(CONFIG, full(100), step, 4) for step in range(50)]
    assert all(mask.positions.tolist() != first.positions.tolist() for mask in masks)


def test_whole_shots_and_the_title_stay_unless_an_option_says_otherwise() -> None:
    mask = training_mask(CONFIG, full(100), 0, 0)
    assert (mask.modality == WHOLE).all()
    assert mask.keep_global


def test_modality_masking_and_global_dropout_happen_at_their_rates() -> None:
    config = dataclasses.replace(CONFIG, modality_masking=0.5, global_dropout=0.25)
    masks = [training_mask(config, full(100), step, 0) for step in range(400)]
    modality = np.concatenate([mask.modality for mask in masks])
    assert np.mean(modality >= 0) == pytest.approx(0.5, abs=0.03)
    assert np.bincount(modality[modality >= 0], minlength=3) / (modality >= 0).sum() == pytest.approx(1 / 3, abs=0.04)
    assert np.mean([not mask.keep_global for mask in masks]) == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize("n", [1, 2, 7, 100, 512])
def test_swapped_and_kept_shots_come_besides_the_masked_ones(n: int) -> None:
    config = dataclasses.replace(CONFIG, swap_ratio=0.3, keep_ratio=0.1)
    mask = training_mask(config, full(n), 0, 0)
    assert len(mask.positions) == masked_count(n, 0.2)
    together = np.concatenate([mask.positions, mask.swapped, mask.kept])
    assert len(set(together.tolist())) == len(together)
    if n >= 7:
        assert (len(mask.swapped), len(mask.kept)) == (round(0.3 * n), round(0.1 * n))
    assert len(mask.source) == len(mask.swapped)
    assert ((mask.source >= 0) & (mask.source < n)).all()
    assert not len(validation_mask(config, full(n), 0).swapped)


def test_the_count_of_masked_shots_is_rounded() -> None:
    assert [masked_count(n, 0.2) for n in (1, 2, 3, 7, 8, 12, 13, 512)] == [1, 1, 1, 1, 2, 2, 3, 102]


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 1000), st.sampled_from([1, 4]))
def test_shots_without_any_modality_are_never_predicted_nor_stand_in_for_others(
    flags: list[bool], step: int, span: int
) -> None:
    config = dataclasses.replace(CONFIG, mask_span=span, swap_ratio=0.2, keep_ratio=0.1)
    empty = np.array(flags)
    there = int((~empty).sum())
    for mask in (training_mask(config, empty, step, 0), validation_mask(config, empty, 0)):
        for chosen in (mask.positions, mask.swapped, mask.kept, mask.source):
            assert not empty[chosen].any()
        assert len(mask.positions) == (masked_count(there, 0.2) if there else 0)
