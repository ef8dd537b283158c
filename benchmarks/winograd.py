"""Convolutions of 3 x 3 by Winograd's algorithm and by PyTorch, layer by layer, in turns, on one thread.

    python benchmarks/winograd.py [--rounds 5]

Random pictures and weights of the sizes of TransNet V2, 100 frames, and of aiSFX, two seconds of sound. Prints
milliseconds of the processor, the best round of each, and how far apart the results are at most (they are about 1).
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import conv2d

from resources.winograd import Convolutions

LAYERS = {
    "TransNet V2": [
        (100, 64, 4, 32, 27, 48),
        (100, 64, 4, 64, 13, 24),
        (100, 128, 4, 64, 13, 24),
        (100, 128, 4, 128, 6, 12),
        (100, 256, 4, 128, 6, 12),
    ],
    "aiSFX": [
        (1, 64, 1, 64, 85, 96),
        (1, 64, 1, 128, 42, 48),
        (1, 128, 1, 128, 42, 48),
        (1, 128, 1, 256, 21, 24),
        (1, 256, 1, 256, 21, 24),
    ],
}
"""Pictures, channels in, branches, channels out of each, height, width."""


def milliseconds(convolve: Callable[[torch.Tensor], object], x: torch.Tensor) -> float:
    began = time.thread_time()
    convolve(x)
    return (time.thread_time() - began) * 1e3


def convolved(weights: list[torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    pictures = x.permute(0, 3, 1, 2)
    return [conv2d(pictures, weight, padding=1).permute(0, 2, 3, 1) for weight in weights]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    for network, layers in LAYERS.items():
        print(network)
        sums = [0.0, 0.0]
        for pictures, channels, branches, out, height, width in layers:
            x = torch.randn(pictures, height, width, channels)
            weights = [torch.randn(out, channels, 3, 3) / (9 * channels) ** 0.5 for _ in range(branches)]
            fewer = Convolutions(weights)
            directly = partial(convolved, [weight.contiguous(memory_format=torch.channels_last) for weight in weights])
            apart = max(float((a - b).abs().max()) for a, b in zip(fewer(x), directly(x), strict=True))
            taken = [(milliseconds(fewer, x), milliseconds(directly, x)) for _ in range(rounds)]
            ours, theirs = (min(each) for each in zip(*taken, strict=True))
            sums = [sums[0] + ours, sums[1] + theirs]
            sizes = f"{channels:3} to {branches} x {out:3}, {height} x {width}"
            print(f"{sizes}: {ours:4.0f} | {theirs:4.0f} ms, {theirs / ours:.2f} x; apart {apart:.0e}", flush=True)
        print(f"all: {sums[0]:.0f} | {sums[1]:.0f} ms, {sums[1] / sums[0]:.2f} x")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
