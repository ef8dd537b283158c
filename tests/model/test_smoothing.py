import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from model.batches import Batch
from model.checkpoint import read_export
from model.config import Config
from model.metrics import Cosines, Products, Validation
from model.packing import Packing
from model.smoothing import BANDS, Smoother, moving_average
from model.store import Store
from model.train import Run

BLOCKS = {"pose": slice(0, 3), "smell": slice(3, 8)}


def smoother(seed: int = 0) -> Smoother:
    made = Smoother(BLOCKS)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        made.weights.copy_(torch.randn(made.weights.shape, generator=generator))
        made.mean.copy_(torch.randn(made.mean.shape, generator=generator))
    return made


def by_hand(made: Smoother, shots: np.ndarray, masked: list[int], of: int) -> np.ndarray:
    """The definition, a shot at a time."""
    visible = [i for i in range(len(shots)) if i != of and i not in masked and shots[i].any()]
    foretold = made.mean.numpy().copy()
    if not visible:
        return foretold
    title = shots[visible].mean(axis=0)
    means = []
    for nearest, farthest in BANDS:
        near = [i for i in visible if nearest <= abs(i - of) <= farthest]
        means.append(shots[near].mean(axis=0) if near else title)
    for weights, block in zip(made.weights.numpy(), BLOCKS.values(), strict=True):
        for weight, mean in zip(weights, [*means, title], strict=True):
            foretold[block] += weight * mean[block]
    return foretold


def test_it_foretells_each_shot_from_the_visible_others_of_its_own_sequence() -> None:
    shots = np.random.default_rng(0).standard_normal((45, 8)).astype(np.float32)
    shots[5] = 0  # a shot without any modality is not there to be seen
    made, masked, asked = smoother(), [2, 3, 40], [0, 3, 20, 30, 40, 44]
    # Sequences of 30, 1 and 14 shots.
    foretold = made(torch.from_numpy(shots), Packing.of([30, 1, 14]), torch.tensor(masked), torch.tensor(asked))
    for row, shot in zip(foretold.numpy(), asked, strict=True):
        first, stop = next((a, b) for a, b in ((0, 30), (30, 31), (31, 45)) if a <= shot < b)
        hidden = [i - first for i in masked if first <= i < stop]
        np.testing.assert_allclose(row, by_hand(made, shots[first:stop], hidden, shot - first), rtol=1e-4, atol=1e-5)


def test_what_a_shot_shows_never_foretells_it() -> None:
    shots = torch.randn(20, 8, generator=torch.Generator().manual_seed(1))
    asked, packing = torch.tensor([3, 9]), Packing.of([20])
    before = smoother()(shots, packing, torch.tensor([9]), asked)
    shots[9] = 7
    changed = smoother()(shots, packing, torch.tensor([9]), asked)
    torch.testing.assert_close(before, changed)
    shots[3] = 7
    torch.testing.assert_close(smoother()(shots, packing, torch.tensor([9]), asked)[0], before[0])


def test_least_squares_finds_the_weights_that_made_the_shots() -> None:
    true, generator = smoother(3), torch.Generator().manual_seed(2)
    mean = torch.randn(8, generator=generator)
    with torch.no_grad():
        true.mean.copy_(torch.cat([0.5 * mean[:3], -0.25 * mean[3:]]))
    examples = []
    for _ in range(20):
        shots, packing = torch.randn(60, 8, generator=generator), Packing.of([60])
        masked = torch.randperm(60, generator=generator)[:12].sort().values
        shots[masked] = true(shots, packing, masked, masked)
        examples.append((shots, packing, masked))
    found = Smoother(BLOCKS)
    found.fit(examples, mean)
    torch.testing.assert_close(found.weights, true.weights, rtol=0.05, atol=0.05)
    torch.testing.assert_close(found.mean, true.mean, rtol=0.05, atol=0.05)


def test_a_blend_is_never_far_below_the_baseline_and_its_cosines_are_those_of_the_vectors(
    tmp_path: Path, store: Store, small: Config
) -> None:
    run = Run(small, store, tmp_path / "run", say=lambda _: None)
    validation = Validation(store, run.train, run.held_out, small, run.smoother, 512)
    noise = torch.Generator().manual_seed(0)

    def guess(batch: Batch) -> torch.Tensor:
        return batch.targets.float() + 0.05 * torch.randn(batch.targets.shape, generator=noise)

    report = validation.report(guess)
    assert report["cosine"] > max(report["alone"]["all"], report["cosines"]["shrunken_neighbours"]["all"])
    # Random numbers get next to no share.
    useless = validation.report(lambda batch: torch.randn(batch.targets.shape, generator=noise))
    assert useless["cosine"] > useless["cosines"]["shrunken_neighbours"]["all"] - 0.01

    # The same from the vectors themselves.
    (batch, titles), *_ = validation.batches()
    predicted, smoothed = (
        torch.randn(batch.targets.shape, generator=noise),
        run.smoother(batch.shots.float(), batch.packing, batch.masked, batch.masked),
    )
    expected, found = (Cosines.none(small.blocks, len(validation.titles)) for _ in range(2))
    own = torch.nn.functional.normalize(predicted, dim=1) * smoothed.norm(dim=1, keepdim=True)
    expected.add(0.7 * smoothed + 0.3 * own, batch.targets, titles)
    products = Products.of(small.blocks, predicted, smoothed, batch.targets.float(), titles)
    Products.joined([products]).add_to(found, 0.3)
    assert found.means() == pytest.approx(expected.means(), abs=1e-5)


def test_a_run_keeps_the_blend_that_its_validation_found(tmp_path: Path, store: Store, small: Config) -> None:
    run = Run(dataclasses.replace(small, ema_decay=0.5), store, tmp_path / "run", say=lambda _: None)
    run.fit()
    metrics = run.finish()
    kept = read_export(run.folder.export)
    assert kept.blend.item() == pytest.approx(metrics["validation"]["blend"])
    torch.testing.assert_close(kept.smoother.weights, run.smoother.weights)


def test_an_encoder_alone_has_no_smoother(tmp_path: Path, store: Store, small: Config) -> None:
    run = Run(dataclasses.replace(small, blend=False), store, tmp_path / "run", say=lambda _: None)
    assert not any("smoother" in name or "blend" in name for name, _ in run.encoder.named_parameters())
    run.fit()
    assert "blend" not in run.finish()["validation"]


@pytest.mark.parametrize("n", [1, 5, 40])
def test_a_moving_average_is_that_of_the_shots_within_reach(n: int) -> None:
    shots = np.random.default_rng(n).standard_normal((n, 8)).astype(np.float32)
    expected = [shots[max(0, i - 3) : i + 4].mean(axis=0) for i in range(n)]
    np.testing.assert_allclose(moving_average(shots, reach=3), expected, rtol=1e-4, atol=1e-6)
