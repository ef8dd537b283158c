"""Small partitions that keep the contract of each table."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from resources.lake import TABLES, polars_schema


def vectors(n: int, length: int, seed: int = 0) -> np.ndarray:
    """(n, length) float32 of unit norm."""
    drawn = np.random.default_rng(seed).normal(size=(n, length))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def fused(n: int) -> np.ndarray:
    """(n, 2304): the first shot lacks audio and text, the second text."""
    drawn = vectors(n, 2304)
    drawn[:1, 768:] = 0
    drawn[1:2, 1536:] = 0
    return drawn / np.linalg.norm(drawn.astype(np.float64), axis=1, keepdims=True).astype(np.float32)


def rows(table: str, n: int = 4, seed: int = 0) -> pl.DataFrame:
    """n rows of one partition in the declared types, without the partition columns and `data_version`."""
    index = list(range(n))
    embedding = vectors(n, 768, seed)
    embedding[:1] = 0
    values: dict[str, Any] = {
        "title": ['It\'s a "title"'] * n,
        "type": ["movie"] * n,
        "synopsis": ["Ein Würfel fällt."] * n,
        "tags": [["a", "b"]] * n,
        "genres": [[]] * n,
        "language": [None] * n,
        "series_id": ["s"] * n,
        "media_uri": ["film.mp4"] * n,
        "media_sha256": ["0" * 64] * n,
        "live": [False] * n,
        "media_parts": [None] * n,
        "mark": [None] * n,
        "duration_s": [12.5] * n,
        "fps": [None] * n,
        "width": [640] * n,
        "height": [360] * n,
        "has_picture": [True] * n,
        "has_audio": [True] * n,
        "text_tracks": [[{"name": "f.en.srt", "language": "en", "kind": None, "format": "srt", "sha256": "1" * 64}]]
        * n,
        "extra": ["{}"] * n,
        "drop_fingerprint": ["f"] * n,
        "landed_at": [datetime(2026, 2, 1, 12, tzinfo=UTC)] * n,
        "shot_index": index,
        "start_s": [i * 0.5 for i in index],
        "end_s": [(i + 1) * 0.5 for i in index],
        "start_frame": [i * 12 for i in index],
        "end_frame": [(i + 1) * 12 for i in index],
        "detector": ["hand"] * n,
        "mood": ["calm"] * n,
        "faces": [2] * n,
        "frame_index": index,
        "time_s": [i * 0.04 for i in index],
        "jpeg": [bytes([seed % 256, i % 256]) * 8 for i in index],
        "embedding": list(embedding),
        "input_hash": ["5" * 32] * n,
        "present": [i > 0 for i in index],
        "encoder": ["space-v1"] * n,
        "text": ["words"] * n,
        "track": ["f.en.srt"] * n,
        "has_text": [True] * n,
        "space": ["v | a | t"] * n,
        "name": [f"layer.{i}" for i in index],
        "dtype": ["F32"] * n,
        "shape": [[2, 3]] * n,
        "data": [b"\x00" * 24] * n,
        "sha256": ["2" * 64] * n,
        "config": ["{}"] * n,
        "metrics": ["{}"] * n,
        "created_at": [datetime(2026, 2, 1, 12, tzinfo=UTC)] * n,
        "step": index,
        "split": ["train"] * n,
        "loss": [0.5] * n,
        "cosine": [None] * n,
        "lr_muon": [0.02] * n,
        "lr_adamw": [0.001] * n,
        "shots_per_s": [None] * n,
        "key": [f"{seed:032x}{i:032x}" for i in index],
        "model": ["text-embedding-3-large"] * n,
        "dimensions": [768] * n,
        "clip_encoder": ["vertex"] * n,
        "clip_id": [f"c{i}" for i in index],
        "title_id": ["t"] * n,
        "labels": [["calm", "ün'usual"]] * n,
        "score": [None] * n,
        "label": [None] * n,
        "task": ["clip_tone"] * n,
        "representation": [f"r{i}" for i in index],
        "metric": ["micro AP"] * n,
        "value": [0.5] * n,
        "ci_low": [0.25] * n,
        "ci_high": [0.75] * n,
        "n_clips": [30] * n,
        "n_titles": [6] * n,
        "n_works": [5] * n,
        "ablation": ["mask_ratio"] * n,
        "variant": [f"0.{i}" for i in index],
        "against": [None] * n,
        "seed": [0] * n,
        "steps": [60] * n,
        "difference": [0.1] * n,
        "difference_low": [-0.1] * n,
        "difference_high": [0.3] * n,
        "note": [None] * n,
        "stage": ["shots"] * n,
        "reason": ["film.mp4 cannot be decoded; replace it"] * n,
        "attempt": ["3" * 32] * n,
        "waits": [False] * n,
        "run_id": ["4" * 36] * n,
        "scene_index": index,
        "first_shot": index,
        "last_shot": index,
        "boundary_score": [0.5] * n,
        "encoder_version": ["20260201T120000-abc"] * n,
        "contextual": list(vectors(n, 32, seed)),
        "video": list(vectors(n, 768, seed)),
        "audio": list(vectors(n, 768, seed)),
        "metadata": list(vectors(n, 32, seed)),
        "shots": index,
        "rank": index,
        "neighbour_id": [f"other{i}" for i in index],
        "weights": list(vectors(n, 32, seed)),
        "bias": [-0.5] * n,
        "clip_s": [2.5] * n,
        "average_precision": [0.5] * n,
        "chance": [0.25] * n,
        "calibration_error": [0.05] * n,
        "usable": [True] * n,
        "scope": ["window"] * n,
        "probability": [0.75] * n,
        "probe_version": ["5" * 32] * n,
        "boundary": [0.5] * n,
        "head_version": [None] * n,
        "cutoff": [0.5] * n,
        "unsupervised": [0.5] * n,
        "gain": [0.1] * n,
        "gain_low": [-0.1] * n,
        "gain_high": [0.3] * n,
        "n_shots": [100] * n,
        "pause_s": [None] * n,
        "gap_s": [30.0] * n,
        "before": [["travel"]] * n,
        "after": [[]] * n,
        "table": [f"table_{i}" for i in index],
        "state": ["fresh"] * n,
        "stored_version": ["6" * 32] * n,
        "wanted_version": ["6" * 32] * n,
        "since": [datetime(2026, 2, 1, 12, tzinfo=UTC)] * n,
        "made_from": ["{}"] * n,
        "made": [True] * n,
        "seconds": [1.5] * n,
        "gpu_seconds": [0.0] * n,
        "film_s": [60.0] * n,
        "bytes": [1000] * n,
        "tokens": [20] * n,
        "dollars": [0.25] * n,
        "cached_share": [0.5] * n,
        "planned_seconds": [2.0] * n,
        "planned_tokens": [20] * n,
        "planned_dollars": [0.25] * n,
        "machine": ["a processor, 2 cores"] * n,
        "code": ["1"] * n,
        "materialised_at": [datetime(2026, 2, 1, 12, tzinfo=UTC)] * n,
        "promoted": [True] * n,
        "previous": [None] * n,
        "decided_at": [datetime(2026, 2, 1, 12, 0, i % 60, tzinfo=UTC) for i in index],
        "by": ["gate"] * n,
        "why": ["it is no worse at any of 6 tasks"] * n,
        "comparison": ["[]"] * n,
        "configuration": ["6" * 32] * n,
        "tables": ["{}"] * n,
        "titles": [3] * n,
        "failed_at": [datetime(2026, 2, 1, 12, tzinfo=UTC)] * n,
    }
    if table == "fused_embeddings":
        values |= {
            "embedding": list(fused(n)),
            "has_video": [True] * n,
            "has_audio": [i > 0 for i in index],
            "has_text": [i > 1 for i in index],
        }
    if table == "title_embeddings":
        values |= {"text": list(vectors(n, 768, seed)), "shots": [n] * n}
    if table == "title_neighbours":
        values |= {part: [0.1] * n for part in ("contextual", "video", "audio", "text", "metadata")}
    if table == "costs":
        values["stage"] = [f"stage{i}" for i in index]
    if table in ("probes", "tags"):
        values["label"] = [f"label{i}" for i in index]
    if table == "tags":
        values["shots"] = [[i, i + 1] for i in index]
    if table in ("global_embeddings", "contextual_embeddings"):
        values |= {name: list(vectors(n, 32, seed)) for name in ("embedding", "last", "middle")}
    given = {*TABLES[table].partition_by, "data_version"}
    schema = {name: kind for name, kind in polars_schema(table).items() if name not in given}
    return pl.DataFrame({name: values[name] for name in schema}, schema=schema)


def partition(table: str, title_id: str = "t") -> dict[str, str]:
    names = {"title_id": title_id, "encoder_version": "20260201T120000-abc", "task": "clip_tone"}
    names |= {"run_id": "a-run", "step": "title"}
    return {name: names[name] for name in TABLES[table].partition_by}


def stored(table: str, n: int = 4) -> pl.DataFrame:
    """n rows of one partition with all declared columns, as a reader gets them."""
    whole = {**partition(table), "data_version": "0" * 32}
    declared = list(polars_schema(table))
    return rows(table, n).with_columns(pl.lit(v).alias(k) for k, v in whole.items()).select(declared)
