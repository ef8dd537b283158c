import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.batches import (
    Order,
    Resident,
    Window,
    gather,
    microbatches,
    predictable,
    read_windows,
    share_of_rank,
    split,
    training_batches,
    windows_of,
)
from model.config import Config
from model.masking import Mask, training_mask
from model.store import Entry, Store, StoredTitle


def masks_of(store: Store, windows: list[Window], config: Config) -> list[Mask]:
    """The masks of the first step, one per window."""
    empty = (store.empty(window.title, window.start, window.stop) for window in windows)
    return [training_mask(config, shots, 0, row) for row, shots in enumerate(empty)]


def test_no_series_is_on_both_sides_of_the_split(store: Store, small: Config) -> None:
    sides = set()
    for seed in range(30):
        train, held_out = split(store.entries, dataclasses.replace(small, seed=seed, validation_share=0.3))
        assert {t.title_id for t in train} | {t.title_id for t in held_out} == {t.title_id for t in store.entries}
        assert not {t.title_id for t in train} & {t.title_id for t in held_out}
        assert not {t.series_id for t in train if t.series_id} & {t.series_id for t in held_out if t.series_id}
        assert held_out
        sides.add(frozenset(t.title_id for t in held_out))
    assert len(sides) > 5, "another seed holds out other titles"


@given(st.integers(0, 999), st.integers(5, 40), st.integers(1, 40), st.sampled_from([0.05, 0.1, 0.3, 0.9]))
def test_what_was_trained_on_is_never_held_out_when_the_catalogue_has_grown(
    seed: int, before: int, more: int, share: float
) -> None:
    config = dataclasses.replace(Config.embedded(), seed=seed, validation_share=share)
    titles = [Entry(f"title-{seed}-{n}", None, "1", 1, "shard", n, n) for n in range(before + more)]
    earlier, later = (split(entries, config) for entries in (titles[:before], titles))
    assert all((*earlier, *later))
    if len(earlier[1]) < before - 1:  # else something had to be trained on, whatever its place
        assert not {title.title_id for title in earlier[0]} & {title.title_id for title in later[1]}


def test_about_the_share_asked_for_is_held_out() -> None:
    titles = [Entry(f"title-{n}", None, "1", 1, "shard", n, n) for n in range(2000)]
    _, held_out = split(titles, dataclasses.replace(Config.embedded(), validation_share=0.1))
    assert 150 < len(held_out) < 250


def test_too_few_groups_are_not_split(store: Store, small: Config) -> None:
    # Twelve titles, of which four are two series: ten groups.
    assert split(store.entries, dataclasses.replace(small, minimum_groups=10))[1]
    train, held_out = split(store.entries, dataclasses.replace(small, minimum_groups=11))
    assert (len(train), held_out) == (12, [])


def test_an_epoch_sees_every_window_once_in_an_order_of_its_own() -> None:
    config = dataclasses.replace(Config.embedded(), batch_sequences=5)
    order = Order(20, config)
    epochs = [list(itertools.chain.from_iterable(order.rows(4 * epoch + s) for s in range(4))) for epoch in range(3)]
    assert all(sorted(rows) == list(range(20)) for rows in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert Order(20, config).rows(7) == order.rows(7), "whichever step is asked for first"


def test_a_catalogue_smaller_than_a_batch_repeats_within_it() -> None:
    rows = Order(3, dataclasses.replace(Config.embedded(), batch_sequences=8)).rows(0)
    assert sorted(rows[:3]) == sorted(rows[3:6]) == [0, 1, 2]


def test_ranks_share_a_steps_rows_evenly_and_completely() -> None:
    lengths = np.random.default_rng(0).integers(20, 513, 32).tolist()
    shares = [share_of_rank(lengths, rank, 4) for rank in range(4)]
    assert sorted(itertools.chain.from_iterable(shares)) == list(range(32))
    loads = [sum(lengths[row] for row in share) for share in shares]
    assert max(loads) < 1.1 * min(loads)


def test_microbatches_are_bounded_and_keep_the_order() -> None:
    lengths = [100, 500, 30, 40, 50, 300]
    groups = microbatches(lengths, [0, 1, 2, 3, 4, 5], 200)
    assert groups == [[0], [1], [2, 3, 4], [5]]


def test_a_batch_holds_the_windows_vectors_and_the_masked_ones_as_targets(store: Store, small: Config) -> None:
    windows = windows_of(store.entries, small)[:5]
    masks = masks_of(store, windows, small)
    batch = gather(store, list(zip(windows, masks, strict=True)))
    expected = np.concatenate([store.read(w.title, w.start, w.stop) for w in windows])
    np.testing.assert_array_equal(batch.shots.numpy(), expected)
    first = np.cumsum([0] + [w.shots for w in windows])[:-1]
    positions = np.concatenate([mask.positions + start for mask, start in zip(masks, first, strict=True)])
    np.testing.assert_array_equal(batch.masked.numpy(), positions)
    np.testing.assert_array_equal(batch.targets.numpy(), expected[positions])
    np.testing.assert_array_equal(batch.global_embeddings[2].numpy(), store.global_embedding(windows[2].title))


def test_resident_vectors_give_the_batches_that_the_store_gives(store: Store, small: Config) -> None:
    config = dataclasses.replace(small, modality_masking=0.5, global_dropout=0.5)
    resident = Resident(store, torch.device("cpu"))
    train = windows_of(store.entries, config)
    for (_, _, ours), (_, _, read) in zip(
        itertools.islice(training_batches(store, train, config, 0, resident=resident), 3),
        training_batches(store, train, config, 0),
        strict=False,
    ):
        for batch, other in zip(ours, read, strict=True):
            for name, value in vars(batch).items():
                if isinstance(value, torch.Tensor):
                    assert torch.equal(value, getattr(other, name)), name


def test_a_singly_masked_modality_is_hidden_and_the_others_are_not(store: Store, small: Config) -> None:
    config = dataclasses.replace(small, modality_masking=0.9)
    windows = windows_of(store.entries, small)
    masks = masks_of(store, windows, config)
    batch = gather(store, list(zip(windows, masks, strict=True)))
    assert len(batch.partly_masked) > len(batch.masked) > 0
    shown = batch.shots[batch.partly_masked].unflatten(1, (3, 768))
    whole = batch.partial_targets.unflatten(1, (3, 768))
    rows = torch.arange(len(shown))
    assert (shown[rows, batch.hidden_modality] == 0).all()
    assert (whole[rows, batch.hidden_modality] != 0).any(dim=1).all(), "what a shot has not cannot be hidden"
    shown[rows, batch.hidden_modality] = whole[rows, batch.hidden_modality]
    assert torch.equal(shown, whole)


def test_swapped_and_kept_shots_are_visible_and_predicted(store: Store, small: Config) -> None:
    config = dataclasses.replace(small, swap_ratio=0.4, keep_ratio=0.2)
    windows = windows_of(store.entries, small)
    masks = masks_of(store, windows, config)
    batch = gather(store, list(zip(windows, masks, strict=True)))
    true = read_windows(store, windows)
    assert torch.equal(batch.targets, true[batch.predicted])
    assert sorted(batch.predicted.tolist()) == sorted(set(batch.predicted.tolist()))
    assert torch.equal(batch.predicted[: len(batch.masked)], batch.masked)
    left = batch.predicted[len(batch.masked) :]
    changed = (batch.shots[left] != true[left]).any(dim=1)
    assert 0 < changed.sum() < len(left)
    untouched = torch.ones(len(true), dtype=torch.bool).index_fill(0, left, False)
    assert torch.equal(batch.shots[untouched], true[untouched])


def test_a_dropped_title_embedding_is_zero(store: Store, small: Config) -> None:
    config = dataclasses.replace(small, global_dropout=0.5)
    windows = windows_of(store.entries, small)
    masks = masks_of(store, windows, config)
    batch = gather(store, list(zip(windows, masks, strict=True)))
    dropped = [not mask.keep_global for mask in masks]
    assert 0 < sum(dropped) < len(dropped)
    assert (batch.global_embeddings == 0).all(dim=1).tolist() == dropped


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_resumed_stream_of_batches_is_the_uninterrupted_one(store: Store, small: Config, ranks: int) -> None:
    train = windows_of(store.entries, small)
    whole = list(itertools.islice(training_batches(store, train, small, 0, 0, ranks), 6))
    resumed = list(itertools.islice(training_batches(store, train, small, 4, 0, ranks), 2))
    for (step, masked, batches), (other_step, other_masked, others) in zip(whole[4:], resumed, strict=True):
        assert (step, masked) == (other_step, other_masked)
        for batch, other in zip(batches, others, strict=True):
            assert torch.equal(batch.shots, other.shots)
            assert torch.equal(batch.masked, other.masked)


WIDTHS = (("pose", 3), ("smell", 5), ("touch", 2))


@pytest.fixture
def sparse(tmp_path: Path) -> Store:
    """One title of 40 shots in three blocks; every fifth shot has none, and none has all."""
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((40, 10))
    vectors[np.arange(40) % 2 == 0, :3] = 0
    vectors[np.arange(40) % 2 == 1, 3:8] = 0
    vectors[np.arange(40) % 3 == 0, 8:] = 0
    vectors[::5] = 0
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(norms > 0, norms, 1)
    title = StoredTitle("t", None, "1", "test-space", vectors, np.ones(16))
    return Store.update(tmp_path / "sparse", [title], modalities=WIDTHS)


def test_only_a_modality_that_a_shot_has_is_hidden_whichever_those_are(sparse: Store, small: Config) -> None:
    config = dataclasses.replace(small, modalities=WIDTHS, modality_masking=0.9, mask_ratio=0.9)
    windows = windows_of(sparse.entries, config)
    batch = gather(sparse, list(zip(windows, masks_of(sparse, windows, config), strict=True)))
    assert len(batch.partly_masked) > 10
    assert set(batch.hidden_modality.tolist()) == {0, 1, 2}
    for row, hidden in enumerate(batch.hidden_modality.tolist()):
        block = list(sparse.blocks.values())[hidden]
        assert batch.partial_targets[row, block].any()
        shown = batch.shots[batch.partly_masked[row]].clone()
        assert not shown[block].any()
        shown[block] = batch.partial_targets[row, block]
        assert torch.equal(shown, batch.partial_targets[row])


def test_a_shot_without_any_modality_is_seen_and_never_a_target(sparse: Store, small: Config) -> None:
    config = dataclasses.replace(small, modalities=WIDTHS, modality_masking=0.3, swap_ratio=0.3, mask_ratio=0.5)
    windows = windows_of(sparse.entries, config)
    batch = gather(sparse, list(zip(windows, masks_of(sparse, windows, config), strict=True)))
    assert batch.targets.any(dim=1).all()
    assert batch.partial_targets.any(dim=1).all()
    assert (~batch.shots.any(dim=1)).sum() >= 8


def test_windows_of_nothing_but_empty_shots_are_left_out(tmp_path: Path, small: Config) -> None:
    vectors = np.zeros((40, 2304))
    vectors[:10, 0] = 1
    store = Store.update(tmp_path / "s", [StoredTitle("t", None, "1", "test-space", vectors, np.ones(16))])
    windows = windows_of(store.entries, small)
    assert [w.start for w in predictable(store, windows, small)] == [0, 8]
    assert len(windows) == 4
