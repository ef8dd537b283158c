"""What a shot sounds like, in 768 numbers, without a learned model.

A log-mel spectrogram (64 bands, 25 ms windows, 10 ms hop, as speech recognisers use) summarised over time:

    level       64 x 5   10th, 25th, 50th and 75th percentile, and spread, of each band's level: the low percentiles are
                         the bed of sound under a scene, which outlasts a shot
    rhythm      24 x 8   modulation spectrum: how strongly each band's level swings, octave by octave from 0.5 to 50 Hz
                         (speech swings at syllable rate, about 4 Hz; a held chord hardly at all)
    loudness    24 x 8   histogram of the level over time per band (gated sounds, beds, silence)
    motion      64       mean absolute step of each band's level from window to window

Levels are in bels, shifted and scaled by constants, so that silence, quiet and loud point in different directions and a
title's vectors depend on that title alone.
"""

import functools

import numpy as np

RATE = 16_000
WINDOW, HOP, FFT = 400, 160, 512
BANDS = 64
COARSE = 24  # bands of the rhythm and loudness blocks
FLOOR = 1e-9  # power of a band; full scale is about 1: silence is -9 bels
WINDOWS_AT_ONCE = 30 * RATE // HOP  # bounds the spectrogram's memory for long shots

# The share of the vector's energy that each block may have.
SHARES = {"level": 0.75, "rhythm": 0.1, "loudness": 0.1, "motion": 0.05}
# Sound falls off with frequency: each band's level, in bels, is told as its distance from this line.
TYPICAL = np.linspace(-5, -6.5, BANDS, dtype=np.float32)


def describe_samples(samples: np.ndarray) -> np.ndarray:
    """The unit-norm (768,) float32 descriptor of mono samples at 16 kHz, floats in -1..1.

    Samples shorter than one window (25 ms) are padded with silence, and digital silence has a descriptor like any other
    sound. Raises ValueError without samples.
    """
    if not len(samples):
        raise ValueError("a shot without samples has no log-mel descriptor")
    bels = log_mel(samples)  # (windows, BANDS)
    coarse = np.add.reduceat(bels, np.arange(COARSE) * BANDS // COARSE, axis=1)
    coarse /= np.bincount(np.arange(BANDS) * COARSE // BANDS)
    steps = np.abs(np.diff(bels, axis=0)).mean(0) if len(bels) > 1 else np.zeros(BANDS, np.float32)
    blocks = {
        "level": np.concatenate([*(np.percentile(bels, [10, 25, 50, 75], axis=0) - TYPICAL), bels.std(0) - 0.6]),
        "rhythm": _modulation(coarse).ravel(),
        "loudness": _level_histograms(coarse).ravel(),
        "motion": steps - 0.25,
    }
    vector = np.concatenate([_scaled(blocks[name]) * share**0.5 for name, share in SHARES.items()])
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _scaled(block: np.ndarray) -> np.ndarray:
    return block / (np.linalg.norm(block) + 1e-3)


def log_mel(samples: np.ndarray) -> np.ndarray:
    """(windows, BANDS) float32: log10 of each band's mean power, at least log10(FLOOR)."""
    samples = np.asarray(samples, np.float32)
    if len(samples) < WINDOW:
        samples = np.pad(samples, (0, WINDOW - len(samples)))
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    taper = np.hanning(WINDOW).astype(np.float32)
    bank = mel_bank() / (taper.sum() / 2) ** 2  # a full-scale sine has power 1 in its bin
    chunks = []
    for start in range(0, len(windows), WINDOWS_AT_ONCE):
        spectrum = np.fft.rfft(windows[start : start + WINDOWS_AT_ONCE] * taper, FFT, axis=1)
        power = spectrum.real**2 + spectrum.imag**2
        chunks.append(np.log10(np.maximum(power @ bank, FLOOR)))
    return np.concatenate(chunks).astype(np.float32)


@functools.cache
def mel_bank() -> np.ndarray:
    """(FFT // 2 + 1, BANDS) float32: triangles evenly spaced on the mel scale (O'Shaughnessy 1987) from 50 to 8,000 Hz.

    Each triangle reaches at least one bin to either side of its centre, so that no low band is empty.
    """
    mels = np.linspace(1127 * np.log1p(50 / 700), 1127 * np.log1p(RATE / 2 / 700), BANDS + 2)
    hertz = 700 * np.expm1(mels / 1127)
    step = RATE / FFT
    centre = hertz[1:-1]
    low = np.minimum(hertz[:-2], centre - step)
    high = np.maximum(hertz[2:], centre + step)
    bins = np.arange(FFT // 2 + 1)[:, None] * step
    triangles = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    return np.maximum(triangles, 0).astype(np.float32)


def _modulation(levels: np.ndarray) -> np.ndarray:
    """(COARSE, 8): log amplitude of each band's swing in eight octaves of modulation frequency up to 50 Hz.

    Welch's estimate over stretches of 2.56 s at half overlap; a shorter sound is one stretch padded with its mean.
    """
    size = 256
    levels = levels - levels.mean(0)
    if len(levels) < size:
        levels = np.pad(levels, ((0, size - len(levels)), (0, 0)))
    stretches = np.lib.stride_tricks.sliding_window_view(levels, size, axis=0)[:: size // 2]  # (s, COARSE, size)
    taper = np.hanning(size).astype(np.float32)
    power = np.zeros((size // 2 + 1, levels.shape[1]))
    for stretch in stretches:
        swing = np.fft.rfft((stretch - stretch.mean(1, keepdims=True)) * taper, axis=1) / taper.sum()
        power += (swing.real**2 + swing.imag**2).T
    edges = np.array([1, 2, 4, 8, 16, 32, 64, 96])  # bins of 0.39 Hz
    octaves = np.add.reduceat(power[1:] / len(stretches), edges - 1, axis=0)  # (8, COARSE)
    return np.log10(np.sqrt(octaves) + 1e-3).T + 1.1


def _level_histograms(levels: np.ndarray) -> np.ndarray:
    """(COARSE, 8): square roots of the share of time that each band spends in eight steps of level, centred."""
    steps = np.clip(((levels + 8) * (8 / 7)).astype(np.int64), 0, 7)
    counts = np.stack([(steps == step).mean(0) for step in range(8)], 1)
    roots = np.sqrt(counts)
    return roots - roots.mean(1, keepdims=True)
