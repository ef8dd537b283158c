"""How far TransNet V2's probabilities move when published windows of 100 frames are looked at as one.

    python benchmarks/transnet_windows.py FILM ... [--together 3]

Prints, for each film and for all: the frames, the most that a probability moves, how many frames change sides of the
threshold, how far from it the furthest of those lies in the longer window, and in how many published windows a
probability lies so near the threshold that they are computed by themselves.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from resources.media.frames import read_frames
from resources.media.sampling import scaled
from resources.shots.transnet import _LONG_OFF, FoldedTransNet, TransNetCuts, package_network

STEP, MARGIN = 50, 25
THRESHOLD = TransNetCuts.default_threshold


def small_frames(film: Path) -> NDArray[np.uint8]:
    """(n, 27, 48, 3), as the detector is given them."""
    scaler = VideoReformatter()
    return np.stack([scaled(frame.image, 48, 27, "rgb24", scaler).to_ndarray() for frame in read_frames(film)])


def probabilities(network: FoldedTransNet, frames: NDArray[np.uint8], together: int) -> NDArray[np.float32]:
    """(n,): of windows that are so many published ones together."""
    n, step = len(frames), together * STEP
    padded = np.concatenate([frames[:1].repeat(MARGIN, 0), frames, frames[-1:].repeat(MARGIN + -n % step, 0)])
    windows = [padded[None, first : first + step + 2 * MARGIN] for first in range(0, len(padded) - 2 * MARGIN, step)]
    found = [network.probabilities(torch.from_numpy(window))[0, MARGIN:-MARGIN].numpy() for window in windows]
    return np.concatenate(found)[:n]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", nargs="+", type=Path)
    parser.add_argument("--together", type=int, default=3)
    given = parser.parse_args()
    network = FoldedTransNet(package_network("cpu"), torch.float32, winograd=True)
    rows = []
    for film in given.films:
        frames = small_frames(film)
        published, longer = (probabilities(network, frames, together) for together in (1, given.together))
        off, away = np.abs(longer - published), np.abs(longer - THRESHOLD)
        sides = (longer > THRESHOLD) != (published > THRESHOLD)
        near = len(set(np.flatnonzero(away < _LONG_OFF) // STEP))
        rows.append((len(frames), off.max(), sides.sum(), away[sides].max(initial=0), near, -(-len(frames) // STEP)))
        told(f"{film.parent.name}/{film.name}", rows[-1:])
    told("all", rows)


def told(name: str, rows: list[tuple[int, ...]]) -> None:
    frames, off, sides, away, near, windows = zip(*rows, strict=True)
    print(f"{name}: {sum(frames)} frames, moved by {max(off):.3f} at most, {sum(sides)} change sides, {max(away):.3f} "
          f"from the threshold at most; {sum(near)} of {sum(windows)} windows by themselves", flush=True)  # fmt: skip


if __name__ == "__main__":
    with torch.inference_mode():
        main()
