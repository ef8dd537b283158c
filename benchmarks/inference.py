"""Contextual inference beside Hugging Face's BertModel with padding.

    python benchmarks/inference.py [--titles 64] [--rounds 5]

Titles of 20 to 1,500 shots. Ours: model.inference.contextualise_many, float32. The peer: the same windows, 16 to a
padded batch in the order in which they come, under inference_mode, in float32 and under bf16 autocast.
"""

import argparse
import contextlib
import dataclasses
import statistics
import time

import numpy as np
import torch
from peer import BertPeer

from model.config import Config
from model.encoder import Encoder
from model.inference import contextualise_many
from model.windows import most_central, windows

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOGETHER = 16  # windows in a batch of the peer's


def matmul_peak() -> float:
    """The chip's FLOP/s in float32 matrix products."""
    a, b = (torch.randn(2048, 2048, device=DEVICE) for _ in range(2))
    best = 0.0
    for _ in range(8):
        started = time.perf_counter()
        torch.mm(a, b)[0, 0].item()  # waits for the device
        best = max(best, 2 * 2048**3 / (time.perf_counter() - started))
    return best


def flops(config: Config, tokens: int, squares: int, shots: int, kept: int, squares_kept: int) -> float:
    """Of matrix products: shots through the input projection, tokens through every block but the last, and there
    through keys and values, and kept tokens through the rest of it. squares: the sum of query x key.
    """
    hidden = config.hidden
    block, key_value = (4 + 2 * config.mlp_ratio) * hidden**2, 2 * hidden**2
    weights = (config.layers - 1) * tokens * block + tokens * key_value + kept * (block - key_value)
    attention = 2 * hidden * ((config.layers - 1) * squares + squares_kept)
    return 2.0 * (weights + attention + shots * hidden * config.fused_dim)


def our_flops(config: Config, lengths: list[int]) -> float:
    """Shots that windows of two passes share are counted once, though both passes project them."""
    each = [stop - start + 2 for n in lengths for start, stop in windows(n)]
    kept = sum(min(n, 512) * n for n in lengths)
    return flops(config, sum(each), sum(t * t for t in each), sum(lengths), sum(lengths), kept)


def peer_flops(config: Config, lengths: list[int]) -> float:
    each = [stop - start for n in lengths for start, stop in windows(n)]
    batches = [each[first : first + TOGETHER] for first in range(0, len(each), TOGETHER)]
    tokens = sum(len(batch) * (max(batch) + 2) for batch in batches)
    squares = sum(len(batch) * (max(batch) + 2) ** 2 for batch in batches)
    return flops(config, tokens, squares, tokens - 2 * len(each), tokens, squares)


@torch.inference_mode()
def with_bert(peer: BertPeer, titles: list[tuple[np.ndarray, np.ndarray]], dtype: torch.dtype) -> list[np.ndarray]:
    pieces = [(i, w) for i, (shots, _) in enumerate(titles) for w in windows(len(shots))]
    states: list[list[np.ndarray]] = [[] for _ in titles]
    cast = torch.autocast(DEVICE.type, dtype) if dtype != torch.float32 else contextlib.nullcontext()
    for first in range(0, len(pieces), TOGETHER):
        batch = pieces[first : first + TOGETHER]
        longest = max(stop - start for _, (start, stop) in batch)
        shots = torch.zeros(len(batch), longest, 2304)
        visible = torch.zeros(len(batch), longest, dtype=torch.bool)
        for row, (i, (start, stop)) in enumerate(batch):
            shots[row, : stop - start] = torch.from_numpy(titles[i][0][start:stop])
            visible[row, : stop - start] = True
        about = torch.from_numpy(np.stack([titles[i][1] for i, _ in batch]))
        with cast:
            out = peer.states(shots.to(DEVICE), about.to(DEVICE), visible.to(DEVICE)).float().cpu()
        for row, (i, (start, stop)) in enumerate(batch):
            states[i].append(out[row, : stop - start].numpy())
    done = []
    for (shots_of_title, _), parts in zip(titles, states, strict=True):
        n = len(shots_of_title)
        chosen = most_central(n)
        starts = np.array([start for start, _ in windows(n)])
        done.append(np.stack([parts[c][s - starts[c]] for s, c in enumerate(chosen)]))
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--titles", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.uniform(np.log(20), np.log(1500), given.titles)).astype(int).tolist()
    titles = []
    for n in lengths:
        shots = rng.standard_normal((n, 2304), dtype=np.float32)
        titles.append(
            (shots / np.linalg.norm(shots, axis=1, keepdims=True), rng.standard_normal(768, dtype=np.float32))
        )
    print(f"{given.titles} titles, {sum(lengths):,} shots, {DEVICE}, {torch.get_num_threads()} threads")
    for layers, hidden, heads in ((4, 256, 4), (6, 512, 8)):
        config = dataclasses.replace(Config.reference(), layers=layers, hidden=hidden, heads=heads, global_dim=768)
        encoder, peer = Encoder(config).eval().to(DEVICE), BertPeer(config).eval().to(DEVICE)
        runs = {
            "ours": lambda e=encoder: list(contextualise_many(e, titles)),
            "BertModel": lambda p=peer: with_bert(p, titles, torch.float32),
            "BertModel, bf16": lambda p=peer: with_bert(p, titles, torch.bfloat16),
        }
        rates: dict[str, list[float]] = {name: [] for name in runs}
        work, work_of_peer = our_flops(config, lengths), peer_flops(config, lengths)
        shares: dict[str, list[float]] = {"ours": [], "BertModel": []}
        for number in range(given.rounds + 1):
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                spent = time.perf_counter() - started
                if number:
                    rates[name].append(sum(lengths) / spent)
                if number and name in shares:
                    shares[name].append((work if name == "ours" else work_of_peer) / spent / matmul_peak())
        print(f"{layers} x {hidden}:")
        for name, measured in rates.items():
            spread = f"({min(measured):,.0f} to {max(measured):,.0f})"
            print(f"  {name:<18} {statistics.median(measured):>10,.0f} shots/s   {spread}")
        for name, target in (("BertModel", "  (target >= 2)"), ("BertModel, bf16", "")):
            ratios = [a / b for a, b in zip(rates["ours"], rates[name], strict=True)]
            print(f"  ours / {name}: {statistics.median(ratios):.2f}{target}")
        print(f"  matrix products of BertModel / ours: {work_of_peer / work:.2f}")
        for name, measured in shares.items():
            print(f"  share of the float32 matrix peak, {name}: {statistics.median(measured):.2f}")


if __name__ == "__main__":
    main()
