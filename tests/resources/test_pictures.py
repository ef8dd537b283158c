"""Pictures of any title are small, whole and the same each time."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resources import pictures

DATA_URI = 48_000
"""Bytes that a text in the metadata may have."""


def opened(webp: bytes) -> Image.Image:
    assert 4 * -(-len(webp) // 3) + 200 <= DATA_URI
    image = Image.open(io.BytesIO(webp))
    assert image.format == "WEBP"
    image.load()
    return image


def noise(width: int, height: int, seed: int = 0) -> bytes:
    """A JPEG that no codec makes small."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, format="JPEG")
        return file.getvalue()


def unit(shots: int, width: int = 16, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((shots, width)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.mark.parametrize("shots", [1, 7, 48, 300])
def test_a_contact_sheet_of_any_film_stays_small(shots: int) -> None:
    sheet = opened(pictures.contact_sheet([noise(398, 224, seed) for seed in range(min(shots, 50))] * -(-shots // 50)))
    assert sheet.width <= 8 * 100


def test_a_sheet_of_tall_pictures_stays_small() -> None:
    opened(pictures.contact_sheet([noise(4, 1000)] * 60))


@settings(max_examples=25, deadline=None)
@given(of=st.integers(1, 3000), most=st.integers(1, 300))
def test_evenly_chosen_shots_are_in_order_and_begin_with_the_first(of: int, most: int) -> None:
    chosen = pictures.evenly(of, most)
    assert chosen == sorted(set(chosen))
    assert (chosen[0], len(chosen)) == (0, min(of, most))
    assert chosen[-1] < of


@pytest.mark.parametrize("shots", [1, 2, 3, 239, 240, 241, 2000])
@pytest.mark.parametrize(
    "draw",
    [
        pictures.self_similarity,
        lambda vectors: pictures.curve_and_map(vectors, np.arange(len(vectors))),
        lambda vectors: pictures.curve_and_map(vectors, np.zeros(len(vectors))),
    ],
)
def test_vectors_of_any_number_of_shots_are_drawn(draw: Callable[[np.ndarray], bytes], shots: int) -> None:
    opened(draw(unit(shots)))
    opened(draw(np.zeros((shots, 16), dtype=np.float32)))


def test_shots_that_are_alike_are_bright_and_those_that_differ_dark() -> None:
    vectors = np.repeat(np.eye(2, 8, dtype=np.float32), 10, axis=0)
    image = np.asarray(opened(pictures.self_similarity(vectors)).convert("L"), dtype=int)
    half = pictures.SIDE // 2
    alike, apart = image[10 : half - 10, 10 : half - 10], image[10 : half - 10, half + 10 : -10]
    assert alike.min() > apart.max() + 100


def test_sound_is_listened_to_on_its_way_and_not_changed() -> None:
    rate = 16_000
    spans = [(0.0, 1.0), (1.0, 1.01), (1.01, 3.0)]
    tone = np.sin(2 * np.pi * 4000 * np.arange(3 * rate) / rate).astype(np.float32)
    shots = [tone[:rate], np.zeros(0, np.float32), tone[rate : 3 * rate]]
    sound = pictures.Sound(spans)
    assert [len(heard) for heard in sound.listen(shots)] == [len(shot) for shot in shots]
    strip = np.asarray(opened(sound.strip()).convert("L"), dtype=int)
    first = strip[: -pictures.CUTS_HEIGHT, : pictures.STRIP_WIDTH // 4].mean(axis=1)
    assert 0.1 < first.argmax() / len(first) < 0.5, "4 kHz lies in the upper half of a mel scale up to 8 kHz"


def test_a_chart_of_a_training_needs_neither_validation_nor_intervals() -> None:
    lines = [{"step": 5, "split": "train", "loss": 0.4}, {"step": 5, "split": "validation", "loss": 0.5}]
    opened(pictures.training_chart(lines[:1], {}))
    opened(pictures.training_chart(lines, {"all": {"skill": 0.1, "low": None, "high": None}}))


@pytest.mark.parametrize("tasks", [1, 5, 8])
def test_a_chart_of_probes_has_a_panel_for_each_task(tasks: int) -> None:
    scores = {f"task_{number}": [("video", 0.5, 0.4, 0.6), ("fused", 0.7, None, None)] for number in range(tasks)}
    chart = opened(pictures.probe_chart(scores, {"task_0": [("a", 0.5), ("b", 0.6)]}))
    assert chart.mode == "RGBA"
    assert np.asarray(chart)[0, 0, 3] == 0, "the page shines through"


@pytest.mark.parametrize("tasks", [0, 1, 6])
def test_charts_of_ablations_stay_small_whatever_has_a_score(tasks: int) -> None:
    named = [("modalities", "audio+text"), ("context", "in_context"), *(("depth", str(n)) for n in range(20))]
    numbers = {"value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n_clips": 30}
    differences = {"difference": -0.1, "difference_low": -0.2, "difference_high": 0.1}
    rows = [
        {"ablation": ablation, "variant": variant, "task": f"task_{task}", **numbers, **differences}
        for ablation, variant in named
        for task in range(tasks)
    ]
    opened(pictures.ablation_chart([*rows, {**rows[0], "value": None}] if rows else []))
    opened(pictures.difference_chart(rows))
