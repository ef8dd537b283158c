import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.checkpoint import export, tensors
from model.config import Config
from model.encoder import Encoder
from model.inference import contextualise, contextualise_many, load, published, read_out_many
from model.packing import Packing
from model.smoothing import moving_average
from model.windows import most_central, windows

Vectors = Callable[[int, int], np.ndarray]
SMALL = dataclasses.replace(
    Config.embedded(), layers=2, hidden=32, heads=2, global_dim=16, max_shots=16, stride=8, precision="fp32"
)


@pytest.fixture
def encoder(small: Config) -> Encoder:
    torch.manual_seed(0)
    return Encoder(small).eval()


def titles(unit_vectors: Vectors) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(unit_vectors(n, n), rng.standard_normal(16).astype(np.float32)) for n in (1, 7, 16, 17, 60, 3)]


def test_a_shots_vector_does_not_depend_on_what_shares_the_batch(encoder: Encoder, unit_vectors: Vectors) -> None:
    some = titles(unit_vectors)
    together = list(contextualise_many(encoder, some))
    for (shots, about), states in zip(some, together, strict=True):
        assert states.shape == (len(shots), encoder.config.hidden)
        assert states.dtype == np.float32
        np.testing.assert_allclose(states, contextualise(encoder, shots, about), atol=1e-5)


def test_the_same_input_gives_the_same_bits(encoder: Encoder, unit_vectors: Vectors) -> None:
    some = titles(unit_vectors)
    for a, b in zip(contextualise_many(encoder, some), contextualise_many(encoder, some), strict=True):
        np.testing.assert_array_equal(a, b)


def test_each_shot_of_a_long_title_comes_from_the_window_in_which_it_is_most_central(
    encoder: Encoder, unit_vectors: Vectors
) -> None:
    shots, about = unit_vectors(30, 1), np.ones(16, dtype=np.float32)
    states = contextualise(encoder, shots, about)  # windows [0, 16), [8, 24) and [14, 30)
    for shot, start in ((0, 0), (11, 0), (12, 8), (18, 8), (19, 14), (29, 14)):
        window = contextualise(encoder, shots[start : start + 16], about)
        np.testing.assert_allclose(states[shot], window[shot - start], atol=1e-5)


def test_a_layer_can_be_chosen(encoder: Encoder, unit_vectors: Vectors) -> None:
    shots, about = unit_vectors(9, 1), np.ones(16, dtype=np.float32)
    direct = encoder(torch.from_numpy(shots), torch.from_numpy(about)[None], Packing.of([9]), layer=1)
    np.testing.assert_allclose(contextualise(encoder, shots, about, layer=1), direct.detach().numpy(), atol=1e-6)
    with pytest.raises(ValueError, match="no layer 3; the encoder has layers 0 to 2"):
        contextualise(encoder, shots, about, layer=3)


def test_an_encoder_is_the_same_from_its_folder_and_from_its_rows(
    tmp_path: Path, encoder: Encoder, unit_vectors: Vectors
) -> None:
    export(dict(encoder.named_parameters()), encoder.config, tmp_path, {})
    shots, about = unit_vectors(9, 1), np.ones(16, dtype=np.float32)
    expected = contextualise(encoder, shots, about)
    np.testing.assert_array_equal(contextualise(load(tmp_path), shots, about), expected)
    np.testing.assert_array_equal(contextualise(load(tensors(encoder), encoder.config), shots, about), expected)
    with pytest.raises(ValueError, match="needs its configuration"):
        load(tensors(encoder))


@pytest.mark.parametrize(
    ("shots", "about", "sentence"),
    [
        (np.ones((3, 768)), np.ones(16), r"shots of shape \(3, 768\)"),
        (np.ones((0, 2304)), np.ones(16), r"shots of shape \(0, 2304\)"),
        (np.ones((3, 2304)), np.ones(768), r"global embedding of shape \(768,\)"),
        (np.full((3, 2304), np.nan), np.ones(16), "NaN"),
        (np.ones((3, 2304)), np.full(16, np.inf), "infinity"),
    ],
)
def test_unusable_vectors_are_refused(encoder: Encoder, shots: np.ndarray, about: np.ndarray, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        contextualise(encoder, shots, about)


def test_no_titles_give_no_vectors(encoder: Encoder) -> None:
    assert list(contextualise_many(encoder, [])) == []


@pytest.mark.parametrize("lengths", [[24, 24], [48], [1] * 48, [30, 18, 5]])
def test_titles_that_fill_a_pass_exactly_are_computed_once_each(
    encoder: Encoder, unit_vectors: Vectors, monkeypatch: pytest.MonkeyPatch, lengths: list[int]
) -> None:
    monkeypatch.setattr("model.inference.SHOTS_AT_ONCE", 48)
    some = [(unit_vectors(n, n), np.ones(16, dtype=np.float32)) for n in lengths]
    for (shots, about), states in zip(some, contextualise_many(encoder, some), strict=True):
        np.testing.assert_allclose(states, contextualise(encoder, shots, about), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=5), layer=st.sampled_from([0, 1, 2]))
def test_every_shot_is_its_state_in_its_most_central_window_read_alone(lengths: list[int], layer: int) -> None:
    torch.manual_seed(0)
    encoder = Encoder(SMALL).eval()
    rng = np.random.default_rng(0)
    some = [(rng.standard_normal((n, 2304), dtype=np.float32) / 48, np.ones(16, dtype=np.float32)) for n in lengths]
    for (shots, about), states in zip(some, contextualise_many(encoder, some, layer), strict=True):
        parts = windows(len(shots), SMALL.max_shots, SMALL.stride)
        alone = [
            encoder(
                torch.from_numpy(shots[start:stop]),
                torch.from_numpy(about)[None],
                Packing.of([stop - start]),
                layer=layer,
            ).detach()
            for start, stop in parts
        ]
        chosen = most_central(len(shots), SMALL.max_shots, SMALL.stride)
        expected = torch.stack([alone[part][shot - parts[part][0]] for shot, part in enumerate(chosen)])
        np.testing.assert_allclose(states, expected, atol=1e-5)


def test_a_read_out_joins_its_parts_at_equal_norms(
    small: Config, unit_vectors: Callable[[int, int], np.ndarray]
) -> None:
    encoder, shots, about = Encoder(small).eval(), unit_vectors(30, 0), np.zeros(small.global_dim, dtype=np.float32)
    last, middle = contextualise(encoder, shots, about), contextualise(encoder, shots, about, small.layers // 2)

    def read_out(parts: str) -> np.ndarray:
        (made,) = read_out_many(encoder, iter([(shots, about)]), parts)
        return made

    np.testing.assert_array_equal(read_out("last"), last)
    np.testing.assert_array_equal(read_out("middle"), middle)
    np.testing.assert_array_equal(read_out("average"), moving_average(shots))
    joined = read_out("layer1+fused+average")
    assert joined.shape == (30, small.hidden + 2 * 2304)
    np.testing.assert_allclose(np.linalg.norm(joined, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(joined[:, small.hidden : small.hidden + 2304] * 3**0.5, shots, rtol=1e-4, atol=1e-6)
    made = published(encoder, shots, about)
    np.testing.assert_array_equal(made["embedding"], read_out("last+fused"))
    np.testing.assert_array_equal(made["last"], last)
    np.testing.assert_array_equal(made["middle"], middle)
    for unknown in ("layer3", "last+", "first"):
        with pytest.raises(ValueError, match="no read-out"):
            read_out(unknown)
