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


@torch.inference_mode()
def with_bert(peer: BertPeer, titles: list[tuple[np.ndarray, np.ndarray]], dtype: torch.dtype) -> list[np.ndarray]:
    pieces = [(i, w) for i, (shots, _) in enumerate(titles) for w in windows(len(shots))]
    states: list[list[np.ndarray]] = [[] for _ in titles]
    cast = torch.autocast(DEVICE.type, dtype) if dtype != torch.float32 else contextlib.nullcontext()
    for first in range(0, len(pieces), 16):
        batch = pieces[first : first + 16]
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
    each = [stop - start for n in lengths for start, stop in windows(n)]
    batches = [each[first : first + 16] for first in range(0, len(each), 16)]
    held = sum(len(batch) * max(batch) for batch in batches) / sum(each)
    print(f"shots in BertModel's batches for each real one: {held:.2f}")
    for layers, hidden, heads in ((4, 256, 4), (6, 512, 8)):
        config = dataclasses.replace(Config.reference(), layers=layers, hidden=hidden, heads=heads, global_dim=768)
        encoder, peer = Encoder(config).eval().to(DEVICE), BertPeer(config).eval().to(DEVICE)
        runs = {
            "ours": lambda e=encoder: list(contextualise_many(e, titles)),
            "BertModel": lambda p=peer: with_bert(p, titles, torch.float32),
            "BertModel, bf16": lambda p=peer: with_bert(p, titles, torch.bfloat16),
        }
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(given.rounds + 1):
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                if number:
                    rates[name].append(sum(lengths) / (time.perf_counter() - started))
        print(f"{layers} x {hidden}:")
        for name, measured in rates.items():
            spread = f"({min(measured):,.0f} to {max(measured):,.0f})"
            print(f"  {name:<18} {statistics.median(measured):>10,.0f} shots/s   {spread}")
        for name in ("BertModel", "BertModel, bf16"):
            ratios = [a / b for a, b in zip(rates["ours"], rates[name], strict=True)]
            print(f"  ours / {name}: {statistics.median(ratios):.2f}  (target >= 2, in the same precision)")


if __name__ == "__main__":
    main()
