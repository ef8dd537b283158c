"""Recall: how often a caption finds its clip, and how often it would by chance."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from model.seqclip.pairs import Pair
from model.seqclip.reader import Reader
from model.seqclip.towers import SeqClip

RECALLS = (1, 5, 10)


@torch.inference_mode()
def recalls(model: SeqClip, reader: Reader, pairs: Sequence[Pair], device: torch.device) -> dict[str, float]:
    """Share of the pairs whose caption finds a clip of that caption among its k nearest, for k of 1, 5 and 10.

    Every clip is there to be found once, however many captions it has.
    """
    model.eval()
    groups = [pairs[start : start + 32] for start in range(0, len(pairs), 32)]
    videos, texts, numbers = [], [], []
    for batch in reader.batches(groups):
        there = batch.to(device)
        videos.append(model.video(there))
        texts.append(model.text(there))
        numbers.append(there.numbers)
    text, (captions, clips) = torch.cat(texts), torch.cat(numbers).T
    places = {clip: place for place, clip in enumerate(clips.tolist())}  # of each clip, one of its rows
    gallery, rows = torch.cat(videos)[list(places.values())], torch.tensor(list(places.values()), device=device)
    belongs = captions * len(reader.clips) + clips
    found = []
    for start in range(0, len(pairs), 1024):  # all at once, a large catalogue would need every pair against every clip
        near = (text[start : start + 1024] @ gallery.T).topk(min(max(RECALLS), len(gallery))).indices
        asked = captions[start : start + 1024, None] * len(reader.clips)
        found.append(torch.isin(asked + clips[rows[near]], belongs))
    hits = torch.cat(found)
    return {f"recall@{k}": hits[:, :k].any(1).float().mean().item() for k in RECALLS}


def chance(pairs: Sequence[Pair]) -> dict[str, float]:
    """The recalls that an order of the clips by lot would have, on average."""
    clips: dict[str, set[tuple[Path, ...]]] = {}
    for pair in pairs:
        clips.setdefault(pair.caption, set()).add(pair.frames)
    n = len(set().union(*clips.values()))

    def missed(pair: Pair, k: int) -> float:
        return math.comb(n - len(clips[pair.caption]), min(k, n)) / math.comb(n, min(k, n))

    return {f"recall@{k}": 1 - sum(missed(pair, k) for pair in pairs) / len(pairs) for k in RECALLS}
