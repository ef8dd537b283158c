import numpy as np
import pytest
import torch

from model.batches import Batch, split, windows_of
from model.config import Config
from model.metrics import Cosines, Validation, baseline_predictions, effective_rank, skill, skills, warning
from model.store import Store
from model.train import fitted_smoother


def basis(*axes: int) -> np.ndarray:
    return np.eye(2304, dtype=np.float32)[list(axes)]


def test_the_baselines_see_visible_shots_only_and_do_what_they_say() -> None:
    shots = basis(0, 1, 2, 3, 4)
    predicted = baseline_predictions(shots, np.array([0, 2, 3]), mean=basis(9)[0])
    np.testing.assert_array_equal(predicted["global_mean"], basis(9, 9, 9))
    np.testing.assert_allclose(predicted["title_mean"][1], (shots[1] + shots[4]) / 2)
    # Nothing is visible before shot 0, so the first one after; shot 1 is the last visible one before 2 and 3.
    np.testing.assert_array_equal(predicted["previous_shot"], basis(1, 1, 1))
    np.testing.assert_allclose(predicted["neighbours"][1], shots[1] / 1 + shots[4] / 2)
    np.testing.assert_allclose(predicted["neighbours"][0], shots[1] / 1 + shots[4] / 4)


def test_neighbours_end_after_eight_shots() -> None:
    shots = basis(*range(20))
    predicted = baseline_predictions(shots, np.array([0, *range(1, 9)]), mean=basis(30)[0])
    np.testing.assert_allclose(predicted["neighbours"][0], predicted["title_mean"][0])
    predicted = baseline_predictions(shots, np.array([0, *range(1, 8)]), mean=basis(30)[0])
    np.testing.assert_allclose(predicted["neighbours"][0], shots[8] / 8)


def test_a_title_of_one_shot_is_predicted_by_the_global_mean() -> None:
    predicted = baseline_predictions(basis(0), np.array([0]), mean=basis(9)[0])
    assert all((values == basis(9)).all() for values in predicted.values())


def test_cosines_are_counted_by_the_modalities_that_a_shot_has() -> None:
    true = torch.zeros(2, 2304)
    true[0, [0, 768]] = 1.0  # video and audio, no text
    true[1, [0, 768, 1536]] = 1.0
    predicted = torch.zeros(2, 2304)
    predicted[0, [0, 769]] = 1.0  # the video right, the audio wrong
    predicted[1, [0, 768, 1537]] = 1.0
    cosines = Cosines.none(Config.embedded().blocks)
    cosines.add(predicted, true)
    means = cosines.means()
    assert means == pytest.approx(
        {"all": (1 / 2 + 2 / 3) / 2, "video": 1, "audio": 0.5, "text": 0, "with_text": 2 / 3, "without_text": 1 / 2}
    )


def test_effective_rank_counts_directions() -> None:
    assert effective_rank(torch.eye(5)) == pytest.approx(5, rel=1e-4)
    assert effective_rank(torch.ones(10, 7)) == pytest.approx(1, abs=0.01)
    assert 1 < effective_rank(torch.diag(torch.tensor([10.0, 1, 1]))) < 3


def test_skill_is_the_share_of_the_way_from_the_best_baseline_to_perfection() -> None:
    assert skill(0.7, 0.4) == pytest.approx(0.5)
    assert skill(0.4, 0.4) == 0
    assert skill(1.0, 0.4) == pytest.approx(1)
    assert skill(0.1, 0.4) < 0


@pytest.fixture
def validation(store: Store, small: Config) -> Validation:
    train, held_out = split(store.entries, small)
    training = windows_of(train, small)
    smoother = fitted_smoother(store, training, small)
    return Validation(store, training, windows_of(held_out, small), small, smoother, 512)


def test_a_model_that_knows_everything_has_skill_one_and_no_warning(validation: Validation) -> None:
    report = validation.report(lambda batch: batch.targets)
    assert report["cosine"] == pytest.approx(1, abs=1e-3)
    assert report["skill"] == pytest.approx(1, abs=1e-2)
    assert warning(report) is None
    assert report["effective_rank"] == pytest.approx(report["effective_rank_of_targets"], rel=1e-2)
    assert report["cosines"]["encoder"]["text"] == pytest.approx(1, abs=1e-3)


def test_a_model_no_better_than_a_constant_says_so(validation: Validation) -> None:
    def constant(batch: Batch) -> torch.Tensor:
        return torch.ones(len(batch.masked), 2304)

    report = validation.report(constant)
    assert report["skill"] <= 0
    assert report["effective_rank"] == pytest.approx(1, abs=0.01)
    assert f"does not beat the {report['best_trivial'].replace('_', ' ')}" in str(warning(report))
    names = {"global_mean", "title_mean", "previous_shot", "neighbours", "shrunken_neighbours"}
    assert set(report["cosines"]) == names | {"encoder"}
    assert report["cosines"][report["best_trivial"]]["all"] == max(report["cosines"][name]["all"] for name in names)


def test_shots_without_any_modality_do_not_stand_for_a_title_in_the_baselines() -> None:
    shots = basis(0, 1, 2, 3)
    shots[1] = 0
    predicted = baseline_predictions(shots, np.array([2]), mean=basis(9)[0])
    np.testing.assert_allclose(predicted["title_mean"][0], (shots[0] + shots[3]) / 2)
    np.testing.assert_array_equal(predicted["previous_shot"], basis(0))
    assert (baseline_predictions(shots[:2], np.array([0]), basis(9)[0])["previous_shot"] == basis(9)).all()


def test_cosines_of_blocks_of_other_names_and_widths() -> None:
    cosines = Cosines.none({"pose": slice(0, 3), "smell": slice(3, 8)})
    true = torch.zeros(2, 8)
    true[0, [0, 3]] = 1.0
    true[1, 4] = 1.0  # no pose
    cosines.add(true.clone(), true)
    assert cosines.means() == pytest.approx({"all": 1, "pose": 1, "smell": 1})
    assert cosines.counts.tolist() == [[2, 1, 2]]


def test_skill_has_an_interval_over_titles_by_modality(validation: Validation) -> None:
    def noisy(batch: Batch) -> torch.Tensor:
        return batch.targets.float() + 0.03 * torch.randn(
            batch.targets.shape, generator=torch.Generator().manual_seed(0)
        )

    report = validation.report(noisy)
    assert report["skills"].keys() == report["cosines"]["encoder"].keys()
    for part, of in report["skills"].items():
        best = max(report["cosines"][name][part] for name in validation.baselines)
        assert report["cosines"][of["best_trivial"]][part] == best
        assert of["skill"] == pytest.approx(skill(report["cosines"]["encoder"][part], best))
    assert report["skills"]["all"]["skill"] == pytest.approx(report["skill"])


def test_an_interval_is_narrow_where_titles_agree_and_missing_where_they_are_few() -> None:
    def cosines(by_title: list[float]) -> Cosines:
        made = Cosines.none({"pose": slice(0, 2)}, len(by_title))
        made.counts[:] = 10
        made.sums[:] = 10 * np.array(by_title)[:, None]
        return made

    alike = skills(cosines([0.6] * 8), {"mean": cosines([0.5] * 8)})["all"]
    assert (alike["low"], alike["high"]) == pytest.approx((0.2, 0.2))
    apart = skills(cosines([0.4, 0.8] * 4), {"mean": cosines([0.5] * 8)})["all"]
    assert apart["low"] is not None
    assert apart["high"] is not None
    assert apart["low"] < 0.1 < apart["skill"] < 0.3 < apart["high"]
    few = skills(cosines([0.6, 0.7]), {"mean": cosines([0.5, 0.5])})["all"]
    assert (few["low"], few["high"]) == (None, None)
