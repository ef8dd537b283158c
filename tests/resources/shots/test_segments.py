"""Segments of what is only heard: where they lie, and sound that means harm."""

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.errors import BadInput
from resources.media import probe, shot_audio, sound, sound_blocks
from resources.shots import segments as module
from resources.shots import sound_segments
from resources.timed_text import Cue
from tests.resources.films import spoken, tone

RATE = 16_000


def noise(seconds: float, seed: int = 0, volume: float = 0.3) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-volume, volume, round(seconds * RATE)).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


def inner(path: Path, cues: list[Cue] | None = None) -> list[float]:
    """Where segments meet. They tile the sound, and are as long as is said."""
    found = sound_segments(path, cues or [])
    assert found[0][0] == 0
    assert found[-1][1] == pytest.approx(probe(path).duration_s, abs=0.1)
    assert all(before[1] == after[0] for before, after in pairwise(found))
    if found[-1][1] >= 10:
        assert all(5 <= end - start <= 30 for start, end in found)
    return [start for start, _ in found[1:]]


@given(st.lists(st.floats(-3, 3), min_size=20, max_size=400))
def test_all_segments_have_an_allowed_length_and_no_single_cut_moves_to_a_better_place(values: list[float]) -> None:
    worth = np.array(values)
    cuts = [0, *module._best_cuts(worth), len(worth)]

    def value(edges: list[int]) -> float:
        cost = sum(module._LENGTH_COST * np.log2((b - a) / module._USUAL) ** 2 for a, b in pairwise(edges))
        return float(worth[edges[1:-1]].sum() - cost)

    def allowed(edges: list[int]) -> bool:
        return all(module._SHORTEST <= b - a <= module._LONGEST for a, b in pairwise(edges))

    assert allowed(cuts)
    for number in range(1, len(cuts) - 1):
        for place in range(cuts[number - 1] + 1, cuts[number + 1]):
            other = [*cuts[:number], place, *cuts[number + 1 :]]
            assert not allowed(other) or value(other) <= value(cuts) + 1e-9


def test_it_is_cut_where_the_sound_changes(tmp_path: Path) -> None:
    parts = [tone(300, 11, RATE), noise(13), tone(2000, 9, RATE) + 0.1 * noise(9)]
    cuts = inner(spoken(tmp_path / "talk.flac", np.concatenate(parts)))
    assert [min(abs(cut - change) for cut in cuts) for change in (11, 24)] == pytest.approx([0, 0], abs=0.5)


def test_it_is_cut_in_the_pauses_of_speech(tmp_path: Path) -> None:
    turns = [7, 9, 6, 11, 8, 7, 10]
    parts = [part for number, turn in enumerate(turns) for part in (noise(turn, number), silence(0.75))]
    cuts = inner(spoken(tmp_path / "talk.mp3", np.concatenate(parts)))
    pauses = np.cumsum([turn + 0.75 for turn in turns])[:-1] - 0.375
    assert len(cuts) >= 4
    assert all(np.abs(pauses - cut).min() <= 0.5 for cut in cuts)


def test_it_is_not_cut_within_a_cue_when_there_is_a_place_between_two(tmp_path: Path) -> None:
    talk = spoken(tmp_path / "talk.flac", noise(90))
    starts = np.cumsum(np.random.default_rng(0).uniform(2, 7, 20))
    cues = [Cue(start, end - 0.3, "word") for start, end in pairwise(starts)]
    cuts = inner(talk, cues)
    assert cuts
    for cut in cuts:
        assert not any(cue.start_s + 0.3 < cut < cue.end_s - 0.3 for cue in cues)


def test_it_is_cut_where_the_topic_changes(tmp_path: Path) -> None:
    talk = spoken(tmp_path / "talk.flac", noise(96))
    cheese = "the cheese ripens in the cellar while milk and salt and rind are turned"
    rocket = "a rocket engine burns hydrogen before orbit and the nozzle glows at launch"
    cues = [Cue(4.0 * i, 4.0 * (i + 1), cheese if i < 13 else rocket) for i in range(24)]
    assert min(abs(cut - 52) for cut in inner(talk, cues)) <= 0.25


def test_silence_is_cut_into_equal_segments_and_a_second_is_one(tmp_path: Path) -> None:
    lengths = np.diff([0, *inner(spoken(tmp_path / "silence.flac", silence(60)))])
    assert len(lengths) >= 3
    assert np.ptp(lengths) <= 1
    assert inner(spoken(tmp_path / "short.mp3", noise(1))) == []
    assert inner(spoken(tmp_path / "short.flac", noise(0.01))) == []


def test_the_same_sound_gives_the_same_segments_and_words_beyond_its_end_do_no_harm(tmp_path: Path) -> None:
    talk = spoken(tmp_path / "talk.mp3", np.concatenate([noise(20), tone(500, 20, RATE)]))
    cues = [Cue(0, 1e6, "always"), Cue(2, 4, "so"), Cue(39.9, 41, "late"), Cue(9e8, 9e8 + 1, "never")]
    assert inner(talk, cues) == inner(talk, cues)
    assert sound_segments(talk) == sound_segments(talk)


@pytest.mark.parametrize("name", ["talk.flac", "talk.mka"])
def test_a_sound_that_was_cut_short_is_refused_and_not_half_used(tmp_path: Path, name: str) -> None:
    talk = spoken(tmp_path / name, noise(60))
    talk.write_bytes(talk.read_bytes()[: talk.stat().st_size // 2])
    with pytest.raises(BadInput, match=rf"{name} ends at \d\d\.\d s of the 60\.0 s .* truncated"):
        sound_segments(talk)


def test_a_corrupt_chapter_table_does_no_harm(tmp_path: Path) -> None:
    plain = spoken(tmp_path / "plain.mp3", np.concatenate([noise(20), tone(500, 20, RATE)]))

    def frame(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack(">I", len(body)) + b"\0\0" + body

    chapters = b"".join(
        frame(b"CHAP", f"c{i}".encode() + b"\0" + struct.pack(">IIII", 2**32 - 1 - i, i, 2**31, 7) + b"TIT2\xff\xff")
        for i in range(50)
    ) + frame(b"CTOC", b"toc\0\x03\xffc0\0toc\0c1")
    size = bytes((len(chapters) >> shift) & 127 for shift in (21, 14, 7, 0))
    talk = tmp_path / "talk.mp3"
    talk.write_bytes(b"ID3\x03\0\0" + size + chapters + plain.read_bytes())
    assert not probe(talk).has_picture
    assert sound_segments(talk) == sound_segments(plain)


def test_blocks_of_sound_are_all_of_it_in_parts_of_one_length(tmp_path: Path) -> None:
    talk = spoken(tmp_path / "talk.flac", noise(65))
    (whole,) = shot_audio(talk, [(0, 65)])
    blocks = list(sound_blocks(talk, block_s=20))
    assert [len(block) for block in blocks] == [20 * RATE, 20 * RATE, 20 * RATE, 5 * RATE]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_a_clock_that_leaps_leaves_silence_and_is_held_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = spoken(tmp_path / "talk.flac", noise(1))
    leaping = [(0, np.ones(RATE, np.float32)), (3500 * RATE, np.ones(RATE, np.float32))]
    monkeypatch.setattr(sound, "sound_chunks", lambda *_: (chunk for chunk in leaping))
    blocks = list(sound.sound_blocks(talk))
    assert max(map(len, blocks)) == 30 * RATE
    assert sum(map(len, blocks)) == 3501 * RATE
    assert sum(float(block.sum()) for block in blocks) == 2 * RATE
