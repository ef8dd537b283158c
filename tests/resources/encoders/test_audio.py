"""Audio embeddings: log-mel statistics on synthesised and real sound, wav2vec 2.0 against transformers itself."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.real_films import near_share
from resources.encoders import AudioEncoder
from resources.errors import Unavailable
from tests.resources.checkpoints import save_clip, save_wav2vec

RATE = 16_000


def seconds(duration: float) -> np.ndarray:
    return np.arange(int(duration * RATE)) / RATE


def speech(pitch: float, duration: float = 3, seed: int = 0) -> np.ndarray:
    """A buzz with formants, opened and closed at syllable rate."""
    rng = np.random.default_rng(seed)
    t = seconds(duration)
    formants = rng.uniform([400, 1200, 2300], [700, 1900, 3000])
    harmonics = np.arange(1, int(5000 / pitch)) * pitch
    gains = sum(np.exp(-(((harmonics - f) / 200) ** 2)) for f in formants) + 0.02
    buzz = sum(g * np.sin(2 * np.pi * h * t + rng.uniform(0, 6)) for g, h in zip(gains, harmonics, strict=True))
    syllables = np.clip(np.sin(2 * np.pi * rng.uniform(3.5, 4.5) * t + rng.uniform(0, 6)), 0, 1)
    return (0.1 * buzz * syllables + 0.001 * rng.standard_normal(len(t))).astype(np.float32)


def music(root: float, duration: float = 3, seed: int = 0) -> np.ndarray:
    """A held chord."""
    rng = np.random.default_rng(seed)
    t = seconds(duration)
    notes = [root * 2 ** (step / 12) * overtone for step in (0, 4, 7) for overtone in (1, 2, 3)]
    chord = sum(np.sin(2 * np.pi * note * t + rng.uniform(0, 6)) for note in notes)
    return (0.05 * np.asarray(chord) + 0.001 * rng.standard_normal(len(t))).astype(np.float32)


def silence(level: float, duration: float = 3, seed: int = 0) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(int(duration * RATE))).astype(np.float32)


def embed(shots: list[np.ndarray], **settings: object) -> np.ndarray:
    vectors = list(AudioEncoder(**settings).embed(shots))  # type: ignore[arg-type]
    assert all(vector is not None for vector in vectors)
    return np.stack(vectors)  # type: ignore[arg-type]


def test_speech_music_and_silence_lie_apart_and_each_with_its_own() -> None:
    shots = [
        *(speech(pitch, duration, seed) for seed, (pitch, duration) in enumerate([(110, 3), (180, 2), (230, 6)])),
        *(music(root, duration, seed) for seed, (root, duration) in enumerate([(220, 3), (262, 2), (330, 6)])),
        *(silence(level, duration) for level, duration in [(0, 3), (1e-5, 2), (3e-5, 6)]),
    ]
    vectors = embed(shots)
    kinds = np.repeat([0, 1, 2], 3)
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -2)
    assert (kinds[cosine.argmax(1)] == kinds).all()
    same = kinds[:, None] == kinds
    assert cosine[same & ~np.eye(9, dtype=bool)].min() > cosine[~same].max()


def test_statistics_are_unit_vectors_of_768_finite_numbers_for_any_length() -> None:
    rng = np.random.default_rng(0)
    shots = [rng.uniform(-1, 1, n).astype(np.float32) for n in (1, 399, 400, 561, 16_000, 16_000 * 65)]
    shots += [np.zeros(n, np.float32) for n in (1, 50_000)] + [np.ones(8_000, np.float32)]
    vectors = embed(shots)
    assert vectors.shape == (len(shots), 768)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_long_sound_is_described_as_a_whole_and_not_in_part() -> None:
    """Its second half lies beyond the stretch that is transformed at once."""
    quiet, loud = silence(1e-4, 40), music(220, 40)
    both = embed([np.concatenate([quiet, loud]), quiet, loud])
    assert both[0] @ both[1] < 0.99
    assert both[0] @ both[2] < 0.99


@pytest.mark.parametrize("kind", ["logmel", "wav2vec2"])
def test_a_shot_without_samples_has_no_vector(kind: str, group: Path) -> None:
    shots = [np.zeros(0, np.float32), speech(120), np.zeros(0, np.float32)]
    vectors = list(AudioEncoder(kind=kind, model=str(group)).embed(shots))
    assert [vector is None for vector in vectors] == [True, False, True]


def test_the_nearest_sound_of_a_real_film_lies_close_by(media: Path) -> None:
    import av

    with av.open(str(media / "titles/big-buck-bunny/big-buck-bunny.mp4")) as container:
        resampler = av.AudioResampler("flt", "mono", RATE)
        frames = itertools.chain.from_iterable(resampler.resample(frame) for frame in container.decode(audio=0))
        samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    # One second is skipped after every four, so that no two stretches touch.
    stretches = [samples[start : start + 4 * RATE] for start in range(0, len(samples) - 4 * RATE, 5 * RATE)]
    share, chance = near_share(embed(stretches), reach=8)
    assert len(stretches) > 100
    assert share >= 2 * chance


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wav2vec(tmp_path_factory.mktemp("group"), "group")


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wav2vec(tmp_path_factory.mktemp("layer"), "layer")


@pytest.fixture(params=["group", "layer"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def alone(folder: Path, samples: np.ndarray) -> np.ndarray:
    """One utterance, unpadded and by itself, with transformers alone."""
    import torch
    from transformers import AutoFeatureExtractor, AutoModel

    model, extractor = AutoModel.from_pretrained(folder).eval(), AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor(samples, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        return model(inputs["input_values"]).last_hidden_state[0].mean(0).numpy()


def test_wav2vec_agrees_with_transformers_utterance_by_utterance(checkpoint: Path) -> None:
    shots = [speech(120, 1.3), music(220, 0.7), silence(0.1, 2.9), speech(200, 0.05)]
    encoder = AudioEncoder(kind="wav2vec2", model=str(checkpoint))
    assert encoder.preflight() == []
    vectors = np.stack([vector for vector in encoder.embed(shots) if vector is not None])
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, [alone(checkpoint, shot) for shot in shots], atol=1e-4)


def test_a_shots_vector_does_not_depend_on_which_shots_share_its_batch(checkpoint: Path) -> None:
    rng = np.random.default_rng(3)
    durations = rng.uniform(0.01, 4, 24)
    shots = [speech(rng.uniform(90, 250), d, i) if i % 2 else silence(0.2, d, i) for i, d in enumerate(durations)]
    settings = {"kind": "wav2vec2", "model": str(checkpoint)}
    together = embed(shots, **settings, batch_seconds=60.0)
    order = rng.permutation(len(shots))
    shuffled = embed([shots[i] for i in order], **settings, batch_seconds=7.0)[np.argsort(order)]
    one_by_one = embed(shots, **settings, batch_seconds=0.001)
    assert np.abs(together - one_by_one).max() <= 1e-4
    assert np.abs(shuffled - one_by_one).max() <= 1e-4


def test_plain_padding_would_have_changed_a_group_checkpoints_output(group: Path) -> None:
    """The fault that the norm over each shot's own length is there to prevent is real in this checkpoint."""
    import torch
    from transformers import AutoFeatureExtractor, AutoModel

    model, extractor = AutoModel.from_pretrained(group).eval(), AutoFeatureExtractor.from_pretrained(group)
    values = extractor(speech(120, 1.0), sampling_rate=RATE, return_tensors="pt")["input_values"]
    with torch.no_grad():
        padded = model(torch.nn.functional.pad(values, (0, 3 * RATE))).last_hidden_state[0, :49].mean(0).numpy()
    assert np.abs(padded - alone(group, speech(120, 1.0))).max() > 1e-2


def test_shots_shorter_than_the_first_frame_are_padded(checkpoint: Path) -> None:
    shots = [speech(120, 1)[:n] for n in (1, 10, 399, 400)]
    vectors = embed(shots, kind="wav2vec2", model=str(checkpoint))
    assert np.isfinite(vectors).all()
    assert np.allclose(vectors[3], alone(checkpoint, shots[3]), atol=1e-4)


def test_a_long_shot_is_cut_into_chunks_averaged_by_length(checkpoint: Path) -> None:
    import torch
    from transformers import AutoFeatureExtractor, AutoModel

    shot = np.concatenate([speech(120, 20), music(220, 21), silence(0.1, 20.3)])
    (vector,) = embed([shot], kind="wav2vec2", model=str(checkpoint))
    values = AutoFeatureExtractor.from_pretrained(checkpoint)(shot, sampling_rate=RATE, return_tensors="np")
    model = AutoModel.from_pretrained(checkpoint).eval()
    total = np.zeros(768)
    chunks = np.array_split(values["input_values"][0], 3)
    with torch.no_grad():
        for chunk in chunks:
            assert len(chunk) <= 30 * RATE
            total += model(torch.from_numpy(chunk)[None]).last_hidden_state[0].mean(0).numpy() * len(chunk)
    assert np.allclose(vector, total / len(shot), atol=1e-4)


def test_wav2vec_reads_no_further_than_its_window(group: Path) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield silence(0.1, 1.0)

    vectors = AudioEncoder(kind="wav2vec2", model=str(group), batch_seconds=2.0).embed(endless())
    assert len(list(itertools.islice(vectors, 3))) == 3
    assert taken <= 8


def test_the_space_follows_the_weights(group: Path, layer: Path) -> None:
    spaces = {AudioEncoder(kind="wav2vec2", model=str(folder)).space() for folder in (group, layer)}
    spaces.add(AudioEncoder().space())
    assert len(spaces) == 3
    assert AudioEncoder(kind="wav2vec2", model="/nowhere").config_key() != AudioEncoder().config_key()


def test_a_large_checkpoint_is_projected_to_the_width_of_the_table(tmp_path: Path) -> None:
    encoder = AudioEncoder(kind="wav2vec2", model=str(save_wav2vec(tmp_path / "large", "layer", hidden=1024)))
    assert encoder.preflight() == []
    low, high = encoder.embed([speech(120), speech(240, seed=1)])
    assert low is not None
    assert high is not None
    assert low.shape == high.shape == (768,)
    assert not np.allclose(low, high)


def test_a_checkpoint_that_cannot_serve_is_refused_before_any_work(tmp_path: Path) -> None:
    narrow = AudioEncoder(kind="wav2vec2", model=str(save_wav2vec(tmp_path / "narrow", "group", hidden=64)))
    (problem,) = narrow.preflight()
    assert "64" in problem
    assert "768" in problem
    with pytest.raises(Unavailable, match="768"):
        narrow.embed([speech(120)])
    (problem,) = AudioEncoder(kind="wav2vec2", model=str(save_clip(tmp_path / "clip"))).preflight()
    assert "not a wav2vec2" in problem
    (problem,) = AudioEncoder(kind="wav2vec2", model=str(tmp_path / "missing")).preflight()
    assert "missing" in problem
    with pytest.raises(ValueError, match="'whisper' is unknown; choose logmel or aisfx or wav2vec2"):
        AudioEncoder(kind="whisper")
