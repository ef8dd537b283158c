"""The gate: a worse encoder is seen for what it is, an equal one is not held up, and both see the same."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.batches import Window, split, training_batches, windows_of
from model.config import Config
from model.encoder import Encoder
from model.gate import Comparison, Pair, by_title, compare, masked_cosine
from model.objective import MaskedShotModelling
from model.probes import TooFewLabels, held_out_score
from model.store import Store

RNG = np.random.default_rng


def outcome(candidate: NDArray[np.float64], in_use: NDArray[np.float64], tolerance: float = 0.01) -> Comparison:
    pair = by_title("task", "cosine", list(candidate), list(in_use))
    assert pair is not None
    return compare([pair], 0.975, tolerance)[0]


def test_what_is_worse_on_every_title_has_regressed_and_says_by_how_much() -> None:
    before = RNG(0).uniform(0.4, 0.9, 20)
    found = outcome(before - RNG(1).uniform(0.05, 0.15, 20), before)
    assert found.regressed
    assert found.low <= found.difference <= found.high < -0.01
    assert found.difference == pytest.approx(found.candidate - found.in_use)
    assert found.titles == 20


def test_what_is_better_or_the_same_has_not_regressed() -> None:
    before = RNG(0).uniform(0.4, 0.9, 20)
    assert not outcome(before + 0.1, before).regressed
    assert not outcome(before, before).regressed


def test_a_loss_within_the_tolerance_does_not_count() -> None:
    before = RNG(0).uniform(0.4, 0.9, 20)
    after = before - RNG(1).uniform(0.02, 0.03, 20)
    assert outcome(after, before).regressed
    assert not outcome(after, before, tolerance=0.05).regressed


def test_equal_encoders_are_hardly_ever_held_up_even_by_six_tasks_of_five_titles() -> None:
    held = 0
    for trial in range(100):  # 2.5 of them, by the level; plain percentiles fail here
        rng = RNG(trial)
        pairs = [by_title(f"task {n}", "cosine", *rng.normal(0.5, 0.1, (2, 5)).tolist()) for n in range(6)]
        held += any(of.regressed for of in compare([pair for pair in pairs if pair], 0.975, 0.0))
    assert held <= 8


def test_the_level_is_shared_out_among_the_tasks() -> None:
    before, after = RNG(0).uniform(0.4, 0.9, (2, 12))
    pair = by_title("task", "cosine", list(after), list(before))
    assert pair
    alone, among_six = compare([pair], 0.975, 0.0)[0], compare([pair] * 6, 0.975, 0.0)[0]
    assert among_six.low < alone.low < alone.high < among_six.high


def test_titles_are_resampled_whole_and_both_encoders_by_the_same_sample() -> None:
    titles = ["a"] * 5 + ["b"] * 3 + ["c"] * 2 + ["d"]
    seen: list[list[int]] = []

    def score(rows: NDArray[np.int64]) -> float:
        seen.append(rows.tolist())
        return 0.0

    compare([Pair("task", "AP", score, score, titles)], 0.975, 0.0)
    assert len(seen) > 1000
    assert seen[0::2] == seen[1::2]
    for rows in seen:
        counts = np.bincount(rows, minlength=11)
        assert len(set(counts[:5])) == len(set(counts[5:8])) == len(set(counts[8:10])) == 1


def test_too_few_titles_give_nothing_to_hold_against_an_encoder() -> None:
    assert by_title("task", "cosine", [0.1, 0.2, 0.3], [0.9, 0.9, 0.9]) is None
    nan = float("nan")
    assert by_title("task", "cosine", [0.1, 0.2, 0.3, nan], [0.9, 0.9, 0.9, 0.9]) is None


def test_two_representations_are_scored_on_the_same_clips_or_the_want_of_them_is_said() -> None:
    titles = [f"title-{number // 5}" for number in range(40)]
    targets = RNG(0).integers(0, 2, 40).tolist()
    telling = np.eye(2)[targets] + 0.01
    score = held_out_score("clip_retrieval", list(telling), targets, titles)
    nothing = held_out_score("clip_retrieval", list(RNG(1).normal(size=(40, 2))), targets, titles)
    everything = np.arange(40)
    assert score(everything) > 0.9 > nothing(everything)
    with pytest.raises(TooFewLabels, match="3 clips of 1 titles"):
        held_out_score("clip_retrieval", list(telling[:3]), targets[:3], titles[:3])


def shots_of(store: Store, number: int) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    entry = store.entries[number]
    return store.read(entry, 0, entry.shots), store.global_embedding(entry)


def test_an_encoder_that_was_trained_foretells_masked_shots_better_than_before(store: Store, small: Config) -> None:
    torch.manual_seed(0)
    encoder = Encoder(small)
    shots, title = shots_of(store, 2)
    before = masked_cosine(encoder, shots[:16], title)
    objective = MaskedShotModelling(encoder, torch.float32)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=3e-3)
    train = [Window(entry, 0, min(entry.shots, 16)) for entry in store.entries]
    for _step, predicted, batches in itertools.islice(training_batches(store, train, small, 0), 60):
        for batch in batches:
            (objective(batch)[0] / predicted).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert masked_cosine(encoder, shots[:16], title) > before + 0.1


def test_the_score_of_a_title_is_the_same_every_time_and_does_not_see_the_masked_shots(
    store: Store, small: Config
) -> None:
    torch.manual_seed(0)
    encoder = Encoder(small).eval()
    shots, title = shots_of(store, 2)
    assert masked_cosine(encoder, shots, title, 16) == masked_cosine(encoder, shots, title, 16)
    twin = Encoder(dataclasses.replace(small)).eval()
    twin.load_state_dict(encoder.state_dict())
    assert masked_cosine(twin, shots, title, 16) == masked_cosine(encoder, shots, title, 16)
    alone = shots[:1]  # its only shot is masked: nothing but the title is seen
    assert masked_cosine(encoder, alone, title) == pytest.approx(masked_cosine(encoder, 2 * alone, title), abs=1e-6)


def test_shots_without_any_modality_are_not_asked_for(store: Store, small: Config) -> None:
    encoder = Encoder(small).eval()
    shots, title = shots_of(store, 2)
    assert np.isnan(masked_cosine(encoder, np.zeros_like(shots), title))
    with_nothing = np.concatenate([shots[:8], np.zeros_like(shots[:4])])
    assert np.isfinite(masked_cosine(encoder, with_nothing, title))


def test_titles_are_held_out_alike_whatever_they_are_kept_as(store: Store, small: Config) -> None:
    train, held_out = split(store.entries, small)
    assert {window.title.title_id for window in windows_of(held_out, small)} == {entry.title_id for entry in held_out}
    assert not {entry.title_id for entry in train} & {entry.title_id for entry in held_out}
