"""The sound of the demo's films: what the place sounds like, music, and voices without words."""

import math
from typing import TYPE_CHECKING

from resources.demo.story import ACTS, FPS, MANNERS, SETTINGS, Act, Manner, Story

if TYPE_CHECKING:
    import numpy as np

SAMPLE_RATE = 24_000


def soundtrack(story: Story) -> "np.ndarray":
    """The film's mono sound, float32 in [-1, 1], as long as its pictures."""
    import numpy as np

    rng = np.random.default_rng([story.seed, story.index, 6])
    sound = np.zeros(round(story.frames * SAMPLE_RATE / FPS), np.float32)
    manner = MANNERS[story.genres[0]]
    for scene in story.scenes:
        first = story.shots[scene.first_shot].start_frame * SAMPLE_RATE // FPS
        end = story.shots[scene.end_shot - 1].end_frame * SAMPLE_RATE // FPS
        part = sound[first:end]
        if scene.sound != "silence":
            part += (0.012 if scene.sound != "ambience" else 0.07) * _ambience(
                len(part), SETTINGS[scene.setting].hiss, rng
            )
        if scene.sound == "music" or scene.act == "climax":
            part += (0.3 if scene.sound == "music" else 0.1) * _music(len(part), ACTS[scene.act], manner, rng)
    for number, (start_s, end_s, text) in enumerate(story.cues):
        first, end = round(start_s * SAMPLE_RATE), round(end_s * SAMPLE_RATE)
        pitch = (105.0, 190.0, 150.0)[(number + story.work) % 3]
        sound[first:end] += 0.35 * _speech(end - first, pitch, len(text), rng)
    return np.clip(sound, -1, 1)


def _ambience(length: int, hiss: float, rng: "np.random.Generator") -> "np.ndarray":
    """White noise mixed with noise that keeps its low end only; it swells slowly."""
    import numpy as np

    white = rng.standard_normal(length, dtype=np.float32)
    sums = np.cumsum(np.concatenate([np.zeros(65, np.float32), white]), dtype=np.float64)
    rumble = ((sums[65:] - sums[:-65]) / 8).astype(np.float32)
    swell = 0.75 + 0.25 * np.sin(np.arange(length, dtype=np.float32) * (2 * math.pi * 0.3 / SAMPLE_RATE))
    return (hiss * white + (1 - hiss) * rumble) * swell


def _music(length: int, act: Act, manner: Manner, rng: "np.random.Generator") -> "np.ndarray":
    """The act's chords at the genre's pace: three partials a note, each chord struck and let ring."""
    import numpy as np

    music = np.zeros(length, np.float32)
    step = int(SAMPLE_RATE / (manner.tempo * (1.6 if act is ACTS["climax"] else 1.0)))
    seconds = np.arange(step, dtype=np.float32) / SAMPLE_RATE
    ring = np.exp(-1.5 * seconds) * np.minimum(seconds / 0.02, 1)
    for number, start in enumerate(range(0, length, step)):
        chord = act.chords[number % len(act.chords)]
        tone = np.zeros(step, np.float32)
        for semitone in chord:
            hz = manner.root_hz * 2 ** (semitone / 12)
            for partial, level in ((1, 1.0), (2, 0.4), (3, 0.2)):
                tone += level * np.sin(np.float32(2 * math.pi * hz * partial) * seconds)
        if act is ACTS["climax"]:
            tone += 2.5 * np.exp(-18 * seconds) * rng.standard_normal(step, dtype=np.float32)
        end = min(start + step, length)
        music[start:end] += (tone * ring / 4.8)[: end - start]
    return music


def _speech(length: int, pitch: float, letters: int, rng: "np.random.Generator") -> "np.ndarray":
    """Voice without words: a buzz through two wandering formants, in as many syllables as the line has."""
    import numpy as np

    seconds = np.arange(length, dtype=np.float32) / SAMPLE_RATE
    syllables = max(2, letters // 3)
    place = np.arange(length, dtype=np.float32) * (syllables / max(length, 1))
    number = np.minimum(place.astype(int), syllables - 1)
    vowels = rng.uniform([300, 900], [800, 2300], (syllables, 2)).astype(np.float32)
    melody = (pitch * (1 + 0.08 * rng.standard_normal(syllables))).astype(np.float32)[number]
    phase = np.cumsum(melody, dtype=np.float64) * (2 * math.pi / SAMPLE_RATE)
    voice = np.zeros(length, np.float32)
    for harmonic in range(1, 17):
        distance = (vowels - harmonic * pitch) / np.array([120, 220], np.float32)
        levels = (np.exp(-(distance**2)) @ np.array([1.0, 0.6]) + 0.05 / harmonic).astype(np.float32)
        voice += levels[number] * np.sin(harmonic * phase).astype(np.float32)
    voice += 0.05 * rng.standard_normal(length, dtype=np.float32)
    envelope = np.sin(math.pi * (place - number)) ** 0.7
    return voice * envelope.astype(np.float32) * np.minimum(1, np.minimum(seconds, seconds[::-1]) / 0.03) / 2
