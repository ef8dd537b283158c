import numpy as np
import pytest

from model.fusion import block_energy, fuse


def modalities(n: int = 5) -> dict:
    rng = np.random.default_rng(0)
    return {
        "video": (rng.standard_normal((n, 768)), np.ones(n, dtype=bool)),
        "audio": (40 * rng.standard_normal((n, 768)), np.ones(n, dtype=bool)),
        "text": (0.1 * rng.standard_normal((n, 768)), np.ones(n, dtype=bool)),
    }


@pytest.mark.parametrize("fusion", ["balanced", "as_published"])
def test_fused_vectors_are_float32_of_unit_norm(fusion: str) -> None:
    fused = fuse(modalities(), fusion=fusion)
    assert fused.shape == (5, 2304)
    assert fused.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(fused, axis=1), 1, atol=1e-5)


def test_balanced_fusion_gives_every_present_modality_the_same_share_of_the_energy() -> None:
    shares = block_energy(fuse(modalities()))
    assert shares == pytest.approx({"video": 1 / 3, "audio": 1 / 3, "text": 1 / 3})


def test_as_published_the_modality_of_the_largest_norm_owns_the_energy() -> None:
    shares = block_energy(fuse(modalities(), fusion="as_published"))
    assert shares["audio"] > 0.99
    assert sum(shares.values()) == pytest.approx(1)


def test_as_published_keeps_the_proportions_of_the_raw_concatenation() -> None:
    given = modalities()
    raw = np.concatenate([vectors for vectors, _ in given.values()], axis=1)
    np.testing.assert_allclose(
        fuse(given, fusion="as_published"), raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-7
    )


def test_an_absent_modality_is_a_block_of_zeros_whatever_its_row_holds() -> None:
    given = modalities()
    vectors, present = given["text"]
    present[2] = False
    vectors[2] = np.nan
    fused = fuse(given)
    assert not fused[2, 1536:].any()
    assert np.linalg.norm(fused[2]) == pytest.approx(1)
    assert fused[1, 1536:].any()


def test_no_shots_fuse_to_no_vectors() -> None:
    assert fuse(modalities(0)).shape == (0, 2304)
    assert block_energy(fuse(modalities(0))) == {"video": 0.0, "audio": 0.0, "text": 0.0}


def test_a_shot_without_any_modality_is_a_zero_vector() -> None:
    given = modalities()
    for _, present in given.values():
        present[3] = False
    fused = fuse(given)
    assert not fused[3].any()
    np.testing.assert_allclose(np.linalg.norm(fused[[0, 1, 2, 4]], axis=1), 1, atol=1e-6)
    assert sum(block_energy(fused).values()) == pytest.approx(4 / 5)


def test_blocks_of_any_number_and_width_are_fused_in_their_order() -> None:
    rng = np.random.default_rng(1)
    widths = (("pose", 3), ("smell", 5))
    some = np.array([True, True, False, False])
    other = np.array([True, False, True, False])
    given = {"smell": (rng.standard_normal((4, 5)), other), "pose": (rng.standard_normal((4, 3)), some)}
    fused = fuse(given, widths=widths)
    assert fused.shape == (4, 8)
    assert (fused[:, :3].any(axis=1) == some).all()
    assert (fused[:, 3:].any(axis=1) == other).all()
    assert block_energy(fused[:1], widths) == pytest.approx({"pose": 0.5, "smell": 0.5})


EVERY = np.ones(5, dtype=bool)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"video": (np.ones((5, 512)), EVERY)}, "video embeddings have shape"),
        ({"audio": (np.ones((4, 768)), EVERY)}, "audio embeddings have shape"),
        ({"text": (np.ones((5, 768)), EVERY[:3])}, "flags of text"),
        (
            {"text": (np.where(np.arange(5)[:, None] == 3, np.nan, np.ones((5, 768))), EVERY)},
            "text embedding of shot 3 holds NaN",
        ),
        ({"video": (np.zeros((5, 768)), EVERY)}, "video embedding of shot 0 is zero"),
        ({"smell": (np.ones((5, 768)), EVERY)}, "video, audio, text are needed, and there are video, audio, text, sm"),
    ],
)
def test_unusable_vectors_are_refused_with_a_sentence(change: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        fuse(modalities() | change)


def test_an_unknown_fusion_is_refused() -> None:
    with pytest.raises(ValueError, match="fusion must be"):
        fuse(modalities(), fusion="raw")  # type: ignore[arg-type]
