"""Video embeddings: the descriptors on rendered and real films, the CLIP tower against transformers itself."""

import io
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.real_films import near_share
from resources.encoders import VideoEncoder
from resources.errors import Unavailable
from tests.resources.checkpoints import save_clip, save_siglip, save_siglip2, text_vectors

RNG_SEED = 7


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=88)
    return file.getvalue()


def noise_shots(lengths: list[int], seed: int = RNG_SEED, size: tuple[int, int] = (48, 64)) -> list[list[bytes]]:
    rng = np.random.default_rng(seed)
    return [[jpeg(rng.integers(0, 256, (*size, 3))) for _ in range(n)] for n in lengths]


def rendered_film(scenes: int = 12, shots_per_scene: int = 12) -> list[list[bytes]]:
    """Scenes with a palette and a setting of their own, seen from two alternating sides, with pans, light and noise."""
    rng = np.random.default_rng(RNG_SEED)
    y, x = np.mgrid[0:64, 0:114]
    film = []
    for _ in range(scenes):
        colours = rng.uniform(30, 225, (3, 3))
        waves = rng.uniform(0.03, 0.3, (2, 2))
        for shot in range(shots_per_scene):
            side = shot % 2
            light = rng.uniform(0.85, 1.15)
            frames = []
            for step in range(4):
                pan = 3 * step + rng.uniform(0, 25)
                wave = np.sin((x + pan) * waves[side, 0] + y * waves[side, 1])
                picture = np.where((wave > 0)[..., None], colours[side], colours[2]) * light
                frames.append(jpeg(picture + rng.normal(0, 12, picture.shape)))
            film.append(frames)
    return film


def test_descriptors_are_unit_vectors_of_768_finite_numbers() -> None:
    vectors = np.stack(list(VideoEncoder().embed(noise_shots([1, 3, 8]))))
    assert vectors.shape == (3, 768)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_shot_of_one_plain_colour_has_a_finite_unit_vector(level: int) -> None:
    (vector,) = VideoEncoder().embed([[jpeg(np.full((30, 50, 3), level))] * 2])
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_descriptors_take_frames_of_any_size() -> None:
    shots = [noise_shots([1], size=size)[0] for size in [(1, 1), (6, 10), (300, 40), (224, 398)]]
    assert all(np.isfinite(vector).all() for vector in VideoEncoder().embed(shots))


def test_a_shots_descriptor_does_not_depend_on_its_neighbours() -> None:
    shots = rendered_film(scenes=2, shots_per_scene=3)
    together = list(VideoEncoder().embed(shots))
    alone = [next(VideoEncoder().embed([shot])) for shot in shots]
    assert np.array_equal(together, alone)


def test_unrelated_pictures_lie_far_from_cosine_one() -> None:
    vectors = np.stack(list(VideoEncoder().embed(rendered_film(scenes=20, shots_per_scene=1))))
    cosines = (vectors @ vectors.T)[np.triu_indices(20, 1)]
    assert np.median(cosines) < 0.5


def test_the_nearest_shot_of_a_rendered_film_lies_close_by() -> None:
    share, chance = near_share(np.stack(list(VideoEncoder().embed(rendered_film()))))
    assert share >= 4 * chance


def test_the_nearest_shot_of_a_real_film_lies_close_by(media: Path) -> None:
    shots = list(film_shots(media / "titles/big-buck-bunny/big-buck-bunny.mp4"))
    share, chance = near_share(np.stack(list(VideoEncoder().embed(shots))))
    assert len(shots) > 80
    assert share >= 3 * chance


def film_shots(path: Path) -> Iterator[list[bytes]]:
    """Shots between jumps of a coarse picture, as three frames each: enough to ask what looks alike."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        before: np.ndarray | None = None
        shot: list[np.ndarray] = []
        for frame in itertools.islice(container.decode(stream), 0, None, 3):
            picture = frame.reformat(114, 64, "rgb24").to_ndarray()
            coarse = picture.reshape(8, 8, 6, 19, 3).mean((1, 3))
            if before is not None and np.abs(coarse - before).mean() > 18:
                if len(shot) >= 5:
                    yield [jpeg(shot[len(shot) * part // 6]) for part in (1, 3, 5)]
                shot = []
            shot.append(picture)
            before = coarse
        if len(shot) >= 5:
            yield [jpeg(shot[len(shot) * part // 6]) for part in (1, 3, 5)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


def expected(folder: Path, shots: list[list[bytes]]) -> np.ndarray:
    """The published pooling, computed shot by shot with transformers alone."""
    import torch
    from transformers import AutoImageProcessor, AutoModel

    model, processor = AutoModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)
    vectors = []
    for shot in shots:
        images = [Image.open(io.BytesIO(frame)).convert("RGB") for frame in shot]
        with torch.no_grad():
            features = model.get_image_features(**processor(images=images, return_tensors="pt")).pooler_output
        features = features / features.norm(dim=-1, keepdim=True)
        mean = features.mean(0)
        vectors.append((mean / mean.norm()).numpy())
    return np.stack(vectors)


@pytest.mark.parametrize("save", [save_clip, save_siglip, save_siglip2])
def test_the_clip_tower_agrees_with_transformers_frame_by_frame(save, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = save(tmp_path / "checkpoint")
    shots = noise_shots([3, 1, 8, 2, 5], size=(40, 71))
    encoder = VideoEncoder(kind="clip", model=str(folder), batch_size=4)
    assert encoder.preflight() == []
    vectors = np.stack(list(encoder.embed(shots)))
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, expected(folder, shots), atol=2e-5)
    assert encoder.embed_texts(["a red circle"]).shape == (1, 768)


def test_half_precision_stays_close(clip: Path) -> None:
    shots = noise_shots([3, 2])
    vectors = np.stack(list(VideoEncoder(kind="clip", model=str(clip), dtype="bfloat16").embed(shots)))
    assert vectors.dtype == np.float32
    assert (vectors * expected(clip, shots)).sum(1).min() > 0.99


def test_shots_do_not_depend_on_how_frames_are_batched(clip: Path) -> None:
    shots = noise_shots([1, 7, 2, 4])
    small, large = (VideoEncoder(kind="clip", model=str(clip), batch_size=size).embed(shots) for size in (1, 64))
    assert np.allclose(list(small), list(large), atol=1e-5)


def test_clip_reads_no_further_than_a_few_batches_ahead(clip: Path) -> None:
    taken = 0

    def endless() -> Iterator[list[bytes]]:
        nonlocal taken
        shot = noise_shots([2])[0]
        while True:
            taken += 1
            yield shot

    vectors = VideoEncoder(kind="clip", model=str(clip), batch_size=4).embed(endless())
    assert len(list(itertools.islice(vectors, 10))) == 10
    assert taken <= 10 + 4 * 4
    vectors.close()  # type: ignore[attr-defined]


def test_the_text_tower_answers_in_the_space_of_the_shots(clip: Path) -> None:
    texts = ["a red circle", "green stripes moving left of the blue square " * 4]
    vectors = VideoEncoder(kind="clip", model=str(clip)).embed_texts(texts)
    assert np.allclose(vectors, text_vectors(clip, texts), atol=1e-5)


@pytest.mark.parametrize("kind", ["descriptors", "efficientnet"])
def test_an_encoder_without_a_text_tower_says_so(kind: str) -> None:
    with pytest.raises(Unavailable, match=f"'{kind}' has no text tower"):
        VideoEncoder(kind=kind).embed_texts(["a red circle"])


def test_the_space_follows_the_weights_and_not_their_place(clip: Path, tmp_path: Path) -> None:
    here = VideoEncoder(kind="clip", model=str(clip))
    copy = Path(shutil.copytree(clip, tmp_path / "copy"))
    there = VideoEncoder(kind="clip", model=str(copy))
    assert here.space() == there.space()
    assert here.space() != VideoEncoder().space()
    assert here.space() != VideoEncoder(kind="clip", model=str(clip), dtype="bfloat16").space()
    before = there.space()
    save_clip(copy, seed=5)
    assert there.space() != before


def test_new_weights_under_the_same_path_are_loaded(tmp_path: Path) -> None:
    encoder = VideoEncoder(kind="clip", model=str(save_clip(tmp_path, seed=1)))
    shots = noise_shots([2])
    first = next(encoder.embed(shots))
    save_clip(tmp_path, seed=2)
    assert not np.allclose(first, next(encoder.embed(shots)), atol=1e-3)
    assert np.allclose(next(encoder.embed(shots)), expected(tmp_path, shots)[0], atol=2e-5)


def test_a_checkpoint_of_another_width_is_refused_before_any_work(tmp_path: Path) -> None:
    encoder = VideoEncoder(kind="clip", model=str(save_clip(tmp_path, dimensions=512)))
    (problem,) = encoder.preflight()
    assert "512" in problem
    assert "768" in problem
    with pytest.raises(Unavailable, match="512"):
        encoder.embed(noise_shots([1]))


def test_a_wider_checkpoint_is_projected_with_both_towers_alike(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "wide", dimensions=1152)
    encoder, shots = VideoEncoder(kind="clip", model=str(folder)), noise_shots([1, 2, 3, 2, 1])
    whole = expected(folder, shots)
    assert whole.shape == (5, 1152)
    assert encoder.preflight() == []
    vectors = np.stack(list(encoder.embed(shots)))
    assert vectors.shape == (5, 768)
    assert np.allclose(vectors @ vectors.T, whole @ whole.T, atol=0.1)
    texts = encoder.embed_texts(["a red circle", "green stripes"])
    assert texts.shape == (2, 768)
    assert np.allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)


def test_preflight_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (problem,) = VideoEncoder(kind="clip", model=str(tmp_path)).preflight()
    assert "incomplete" in problem
    with pytest.raises(ValueError, match="'oracle' is unknown; choose descriptors or efficientnet or clip"):
        VideoEncoder(kind="oracle")
    (problem,) = VideoEncoder(kind="clip", dtype="int4").preflight()
    assert "int4" in problem
    (problem,) = VideoEncoder(kind="clip", model=str(tmp_path), device="cuda:99").preflight()
    assert "cuda:99" in problem


def test_a_hub_name_without_a_network_is_one_clear_sentence(tmp_path: Path) -> None:
    """In a process of its own: the hub client reads its settings when it is imported."""
    script = (
        "from resources.encoders import VideoEncoder\n"
        "print(VideoEncoder(kind='clip', model='nobody/no-such-model').preflight())"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "nobody/no-such-model" in done.stdout
    assert "network" in done.stdout


def test_a_hub_name_that_was_downloaded_before_needs_no_network(clip: Path, tmp_path: Path) -> None:
    """The layout is the hub client's own cache: a reference to a revision, and the revision's files."""
    repository = tmp_path / "hub" / "models--studio--small-clip"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abc")
    shutil.copytree(clip, repository / "snapshots" / "0123abc")
    script = (
        "from resources.encoders import VideoEncoder\n"
        "encoder = VideoEncoder(kind='clip', model='studio/small-clip')\n"
        "print(encoder.preflight(), encoder.space())"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"[] {VideoEncoder(kind='clip', model=str(clip)).space()}"


def test_the_configuration_key_needs_no_weights() -> None:
    absent = VideoEncoder(kind="clip", model="/nowhere")
    assert "/nowhere" in absent.config_key()
    assert absent.config_key() != VideoEncoder().config_key()


@pytest.mark.parametrize("kind", ["descriptors", "clip"])
def test_a_shot_without_frames_is_an_error(kind: str, clip: Path) -> None:
    with pytest.raises(ValueError, match="without frames"):
        list(VideoEncoder(kind=kind, model=str(clip)).embed([[]]))
