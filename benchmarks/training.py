"""Training speed beside Hugging Face's BertModel, Muon beside AdamW, the share of the chip's peak, and the input
pipeline.

    python benchmarks/training.py [--sequences 32] [--rounds 5] [--compile]

Both models train on the same windows of the same store, of 20 to 512 shots, step for step in turn, and only real
shots are counted. The ratios are of the medians over the rounds; the spread is printed beside them.
"""

import argparse
import contextlib
import dataclasses
import itertools
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from peer import BertPeer, padded

from model.attention import attend
from model.batches import Batch, training_batches, windows_of
from model.config import Config
from model.encoder import Encoder
from model.objective import MaskedShotModelling
from model.optim import optimizers, parameter_groups
from model.packing import Packing
from model.precision import matmul_dtype
from model.store import Store, StoredTitle

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = matmul_dtype(DEVICE)


def made_up(titles: int, shortest: int, longest: int, seed: int = 0, global_dim: int = 768) -> Iterator[StoredTitle]:
    """Titles of random unit vectors: speed does not look at values."""
    rng = np.random.default_rng(seed)
    pool = rng.standard_normal((longest, 2304), dtype=np.float32)
    pool /= np.linalg.norm(pool, axis=1, keepdims=True)
    for i in range(titles):
        n = int(rng.integers(shortest, longest + 1))
        yield StoredTitle(f"{i:06d}", None, "1", "random", pool[:n], rng.standard_normal(global_dim, dtype=np.float32))


def seconds(work: Callable[[], object]) -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def ours(config: Config, compiled: bool = False, dtype: torch.dtype = DTYPE) -> Callable[[list[Batch]], None]:
    """A training step of this project's encoder on a step's microbatches."""
    encoder = Encoder(config).to(DEVICE)
    objective = MaskedShotModelling(encoder, dtype)
    forward = torch.compile(objective, dynamic=True) if compiled else objective
    made = optimizers(encoder, config)

    def step(batches: list[Batch]) -> None:
        predicted = sum(len(batch.predicted) for batch in batches)
        for batch in batches:
            loss, _ = forward(batch.to(DEVICE))
            (loss / predicted).backward()
        for optimizer in made.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def theirs(config: Config, given: list[list[Batch]]) -> Callable[[list[Batch]], None]:
    """A training step of BertModel on the same sequences; they are padded beforehand, which costs it nothing."""
    peer = BertPeer(config).to(DEVICE)
    optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-4, fused=True)
    cast = torch.autocast(DEVICE.type, torch.bfloat16) if torch.bfloat16 == DTYPE else contextlib.nullcontext()

    ready = {id(batch): padded(batch) for batches in given for batch in batches}

    def step(batches: list[Batch]) -> None:
        for batch in batches:
            with cast:
                loss = peer.loss({name: value.to(DEVICE) for name, value in ready[id(batch)].items()})
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def in_turn(steps: dict[str, Callable[[list[Batch]], None]], given: list[list[Batch]]) -> dict[str, list[float]]:
    """Shots per second of each step function on each of the steps given but the first, taken in turn."""
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for number, batches in enumerate(given):
        shots = sum(len(batch.shots) for batch in batches)
        for name, step in steps.items():
            spent = seconds(lambda step=step, batches=batches: step(batches))
            if number:
                rates[name].append(shots / spent)
    return rates


def matmul_peak() -> float:
    """The chip's FLOP/s in matrix products of the type that training uses."""
    best = 0.0
    for size in (1024, 2048, 4096) if DEVICE.type == "cpu" else (4096, 8192, 16384):
        a, b = (torch.randn(size, size, device=DEVICE, dtype=DTYPE) for _ in range(2))
        best = max(best, *(2 * size**3 / seconds(lambda a=a, b=b: [torch.mm(a, b)]) for _ in range(8)))
    return best


def product_ms(dtype: torch.dtype) -> float:
    """Milliseconds of a product of Muon's iteration, 256 x 256 by 256 x 1024; the best of several."""
    square, wide = (torch.randn(256, columns, device=DEVICE, dtype=dtype) for columns in (256, 1024))
    return 1000 * min(seconds(lambda: square @ wide) for _ in range(20))


def muon_seconds(config: Config) -> tuple[float, float]:
    """Of one step over the encoder's hidden matrices: this project's Muon, and PyTorch's; the second step of each."""
    encoder = Encoder(config).to(DEVICE)
    hidden = parameter_groups(encoder)["hidden"]
    for _, matrix in hidden:
        matrix.grad = torch.randn_like(matrix)
    pytorchs = torch.optim.Muon(hidden, adjust_lr_fn="match_rms_adamw")
    made = (optimizers(encoder, config)["muon"], pytorchs)
    ours, theirs = [seconds(optimizer.step) for _ in range(2) for optimizer in made][2:]
    return ours, theirs


def flops(config: Config, batch: Batch) -> float:
    """Of one forward and backward pass: 6 per weight and token that it is used for (4 where the input needs no
    gradient), and in attention 12 x hidden x query x key; the softmax, norms and GELUs are not counted. The last
    block has queries, an output and an MLP for predicted shots only.
    """
    hidden = config.hidden
    lengths = torch.tensor(batch.packing.lengths)
    predicted = torch.cat([batch.predicted, batch.partly_masked])
    tokens, shots, seen = int(lengths.sum()), len(batch.shots), lengths.repeat_interleave(lengths - 2)[predicted]
    block, key_value = (4 + 2 * config.mlp_ratio) * hidden**2, 2 * hidden**2
    whole = (config.layers - 1) * (6 * tokens * block + 12 * hidden * float(lengths.square().sum()))
    last = 6 * (tokens * key_value + len(predicted) * (block - key_value)) + 12 * hidden * float(seen.sum())
    projections = (4 * shots + 6 * len(predicted)) * hidden * config.fused_dim
    return whole + last + projections


def orthogonalisation_flops(config: Config) -> float:
    """Of Muon's five Newton-Schulz steps, the same for any batch: 4 m²n + 2 m³ each for a matrix of m × n, m <= n; of a
    wide one in float32 4 m²n and 34 m³ together."""
    shapes = [sorted(matrix.shape) for _, matrix in parameter_groups(Encoder(config))["hidden"]]
    by_gram = torch.float32 == DTYPE
    return sum(
        4 * m * m * n + 34 * m**3 if by_gram and n >= 2 * m else 5 * (4 * m * m * n + 2 * m**3) for m, n in shapes
    )


def shown(name: str, rates: list[float]) -> str:
    return f"  {name:<28} {statistics.median(rates):>10,.0f} shots/s   ({min(rates):,.0f} to {max(rates):,.0f})"


def ratio(a: list[float], b: list[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def attention_rates(config: Config, lengths: list[int], rounds: int) -> tuple[list[float], list[float]]:
    """Tokens per second through attention, forward and backward: as `attend` does it, and by PyTorch's fused kernel."""
    head = config.hidden // config.heads
    packing = Packing.of([n - 2 for n in lengths], DEVICE)
    given = [torch.randn(sum(lengths), config.heads, head, device=DEVICE, dtype=DTYPE) for _ in range(3)]

    def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        parts = zip(*(x.transpose(0, 1).split(lengths, dim=1) for x in (q, k, v)), strict=True)
        out = [torch.nn.functional.scaled_dot_product_attention(a[None], b[None], c[None])[0] for a, b, c in parts]
        return torch.cat(out, 1).transpose(0, 1)

    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for into, work in zip(rates, (lambda *x: attend(*x, packing), fused), strict=True):
            leaves = [x.clone().requires_grad_() for x in given]
            into.append(sum(lengths) / seconds(lambda work=work, leaves=leaves: work(*leaves).sum().backward()))
    return rates[0][1:], rates[1][1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=32, help="per step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    given = parser.parse_args()
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"{name}; torch {torch.__version__}, {torch.get_num_threads()} threads, {DTYPE}")
    times = {dtype: product_ms(dtype) for dtype in (torch.bfloat16, torch.float32)}
    print("256 x 256 by 256 x 1024: " + ", ".join(f"{ms:.2f} ms in {dtype}" for dtype, ms in times.items()))
    mine, pytorchs = muon_seconds(Config.embedded())
    print(f"Muon, embedded preset: {mine:.3f} s a step, PyTorch's {pytorchs:.3f} s: {pytorchs / mine:.1f} x")

    with tempfile.TemporaryDirectory() as folder:
        middle = dataclasses.replace(
            Config.reference(), layers=6, hidden=512, heads=8, global_dim=768, batch_sequences=given.sequences
        )
        store = Store.update(Path(folder) / "store", made_up(200, 20, 512))
        train = windows_of(store.entries, middle)
        batches = [b for _, _, b in itertools.islice(training_batches(store, train, middle, 0), given.rounds + 1)]
        adamw = dataclasses.replace(middle, optimizer="adamw")
        steps = {"BertModel, AdamW": theirs(adamw, batches), "ours, AdamW": ours(adamw), "ours, Muon": ours(middle)}
        if torch.float32 != DTYPE:
            steps["ours, AdamW, float32"] = ours(adamw, dtype=torch.float32)
        if given.compile:
            steps["ours, Muon, compiled"] = ours(middle, compiled=True)
            steps["ours, Muon, compiled"](batches[0])
        print(f"6 x 512, 20 to 512 shots, {given.sequences} sequences a step, each step in turn:")
        rates = in_turn(steps, batches)
        for label, measured in rates.items():
            print(shown(label, measured))
        faster = ratio(rates["ours, AdamW"], rates["BertModel, AdamW"])
        print(f"  ours / BertModel, both AdamW: {faster:.2f}  (target >= 2)")
        print(
            f"  Muon / AdamW:                 {ratio(rates['ours, Muon'], rates['ours, AdamW']):.2f}  (target >= 0.9)"
        )
        extra = orthogonalisation_flops(middle) / statistics.mean(
            sum(flops(middle, batch) for batch in step) for step in batches
        )
        print(f"  Muon's own products / a step's: {extra:.2f}")
        if torch.float32 != DTYPE:
            print(f"  bf16 / float32:               {ratio(rates['ours, AdamW'], rates['ours, AdamW, float32']):.2f}")
        if given.compile:
            print(f"  compiled / not:               {ratio(rates['ours, Muon, compiled'], rates['ours, Muon']):.2f}")

        embedded = Config.embedded()
        for what, shortest, longest in (("20 to 512 shots", 20, 512), ("32 shots, as in the demo", 32, 32)):
            titles = Store.update(Path(folder) / what, made_up(200, shortest, longest))
            windows = windows_of(titles.entries, embedded)
            some = training_batches(titles, windows, embedded, 0)
            small = [batches for _, _, batches in itertools.islice(some, 4 * given.rounds + 1)]
            preset = {
                "ours, AdamW": ours(dataclasses.replace(embedded, optimizer="adamw")), "ours, Muon": ours(embedded)
            }  # fmt: skip
            print(f"embedded preset, {what}, {embedded.batch_sequences} sequences a step, each step in turn:")
            measured = in_turn(preset, small)
            for label, values in measured.items():
                print(shown(label, values))
            target = "  (target >= 0.8)" if shortest != longest else ""
            print(
                f"  Muon / AdamW:                 {ratio(measured['ours, Muon'], measured['ours, AdamW']):.2f}{target}"
            )

        tokens = [batch.packing.lengths for step in batches for batch in step]
        held = sum(len(lengths) * max(lengths) for lengths in tokens) / sum(map(sum, tokens))
        print(f"  tokens in BertModel's batches for each real one: {held:.2f}")
        mine, torchs = attention_rates(middle, [n for batch in batches[0] for n in batch.packing.lengths], given.rounds)
        print(f"  attention alone / PyTorch's:  {ratio(mine, torchs):.2f}")

        pipeline = training_batches(store, train, middle, 0)
        next(pipeline)
        read = []
        for _ in range(4 * given.rounds):
            started = time.perf_counter()
            _, _, got = next(pipeline)
            read.append(sum(len(batch.shots) for batch in got) / (time.perf_counter() - started))
        pipeline.close()
        print("input pipeline alone, the same windows:")
        print(shown("store to masked batches", read))
        fastest = statistics.median(rates["ours, AdamW"])
        print(f"  pipeline / training:          {statistics.median(read) / fastest:.1f}  (target >= 5)")

        large = dataclasses.replace(Config.reference(), global_dim=768, optimizer="adamw", batch_sequences=8)
        store = Store.update(Path(folder) / "long", made_up(16, 512, 512))
        windows = windows_of(store.entries, large)
        batches = [b for _, _, b in itertools.islice(training_batches(store, windows, large, 0), given.rounds + 1)]
        step = ours(large, compiled=given.compile)
        step(batches[0])
        shares = []
        for parts in batches[1:]:
            work = sum(flops(large, batch) for batch in parts)
            peak = matmul_peak()
            shares.append(work / seconds(lambda parts=parts: step(parts)) / peak)
        print(f"12 x 768, T = 514, {large.batch_sequences} sequences a step{', compiled' if given.compile else ''}:")
        target = 0.45 if DEVICE.type == "cuda" else 0.35
        share = statistics.median(shares)
        print(f"  share of the matrix peak ({peak / 1e12:.2f} TFLOP/s): {share:.2f}  (target >= {target})")


if __name__ == "__main__":
    main()
