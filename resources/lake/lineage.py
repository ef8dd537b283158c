"""Which columns each column is made from, for Dagster's column lineage."""

from collections.abc import Mapping

import dagster as dg

from resources.lake.tables import TABLES, TITLE_PARTS

NAMES = {
    "title_id": "titles.title_id",
    "shot_index": "shots.shot_index",
    "encoder_version": "encoder.encoder_version",
    "probe_version": "probes.data_version",
    "head_version": "boundary_head.data_version",
}
"""Columns that mean the same wherever they stand, and where they come from."""

NAMED_ANEW = frozenset({"titles", "freshness", "encoder", "encoder_training", "clip_labels"})
"""Tables whose names come from outside, or with the training."""

_SPAN = {"start_s": ("shots.start_s",), "end_s": ("shots.end_s",)}
_FILM = ("titles.media_sha256",)
_MODALITIES = tuple(f"{modality}_embeddings.embedding" for modality in ("video", "audio", "text"))
_TRAINED_ON = ("fused_embeddings.embedding", "global_embeddings.embedding")
_IN_CONTEXT = ("contextual_embeddings.embedding",)
_BY_PROBE = (*_IN_CONTEXT, "probes.weights", "probes.bias")
_SCENES = ("clip_labels.start_s", "clip_labels.end_s")
_FOUND_BY = ("contextual_embeddings.last", "fused_embeddings.embedding")
_LABELS = tuple(f"clip_labels.{name}" for name in ("labels", "score", "label", "start_s", "end_s"))
_MEASURED = (*_LABELS, *_IN_CONTEXT, "fused_embeddings.embedding", "encoder.data", "titles.genres")

MADE_FROM: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "shots": dict.fromkeys(("shot_index", "start_s", "end_s", "start_frame", "end_frame"), _FILM),
    "shot_frames": {
        "frame_index": ("shots.start_frame", "shots.end_frame"),
        "time_s": _FILM,
        "jpeg": (*_FILM, "shots.start_frame", "shots.end_frame"),
    },
    "video_embeddings": {"embedding": ("shot_frames.jpeg",), "present": ("shot_frames.jpeg",)},
    "audio_embeddings": {
        "embedding": (*_FILM, "titles.language", "shots.start_s", "shots.end_s"),
        "present": ("titles.has_audio", "shots.start_s", "shots.end_s"),
    },
    "text_embeddings": {
        "embedding": ("titles.text_tracks", "shots.start_s", "shots.end_s"),
        "present": ("titles.text_tracks", "shots.start_s", "shots.end_s"),
        "text": ("titles.text_tracks", "shots.start_s", "shots.end_s"),
        "track": ("titles.text_tracks", "titles.language"),
    },
    "global_embeddings": {
        name: tuple(f"titles.{part}" for part in ("title", "type", "synopsis", "tags", "genres"))
        for name in ("text", "embedding")
    },
    "fused_embeddings": {
        **_SPAN,
        "embedding": _MODALITIES,
        **{f"has_{modality}": (f"{modality}_embeddings.present",) for modality in ("video", "audio", "text")},
        "space": tuple(f"{modality}_embeddings.encoder" for modality in ("video", "audio", "text")),
    },
    "encoder": dict.fromkeys(
        ("data", "metrics"), ("fused_embeddings.embedding", "global_embeddings.embedding", "titles.series_id")
    ),
    "contextual_embeddings": {
        "start_s": ("fused_embeddings.start_s",),
        "end_s": ("fused_embeddings.end_s",),
        **dict.fromkeys(
            ("embedding", "last", "middle"),
            (*_TRAINED_ON, "encoder.data"),
        ),
    },
    "clip_embeddings": {
        "media_sha256": _FILM,
        "start_s": ("clip_labels.start_s",),
        "end_s": ("clip_labels.end_s",),
        "embedding": (*_FILM, "titles.language", "clip_labels.start_s", "clip_labels.end_s"),
    },
    "probe_metrics": dict.fromkeys(("value", "ci_low", "ci_high"), (*_MEASURED, "clip_embeddings.embedding")),
    "ablations": dict.fromkeys(
        ("value", "ci_low", "ci_high", "difference", "difference_low", "difference_high"),
        (*_LABELS, *_MODALITIES, "global_embeddings.embedding", "titles.genres"),
    ),
    "probes": dict.fromkeys(
        ("weights", "bias", "average_precision", "ci_low", "ci_high", "calibration_error"), (*_LABELS, *_IN_CONTEXT)
    ),
    "tags": {
        **dict.fromkeys(("probability", "shots"), _BY_PROBE),
        "label": ("probes.label",),
        "start_s": ("contextual_embeddings.start_s",),
        "end_s": ("contextual_embeddings.end_s",),
    },
    "highlights": {
        "score": _BY_PROBE,
        "start_s": ("contextual_embeddings.start_s",),
        "end_s": ("contextual_embeddings.end_s",),
    },
    "scenes": {
        "boundary_score": (*_FOUND_BY, "boundary_head.weights", "boundary_head.bias"),
        "embedding": ("contextual_embeddings.last",),
        "start_s": ("fused_embeddings.start_s",),
        "end_s": ("fused_embeddings.end_s",),
    },
    "boundary_head": dict.fromkeys(
        (
            *("weights", "bias", "cutoff", "average_precision", "ci_low", "ci_high", "unsupervised"),
            *("gain", "gain_low", "gain_high"),
        ),
        (*_SCENES, *_FOUND_BY),
    ),
    "ad_breaks": {
        "time_s": ("shots.start_s",),
        "score": ("scenes.boundary_score", "titles.text_tracks", "shots.start_s"),
        "boundary_score": ("scenes.boundary_score",),
        "pause_s": ("titles.text_tracks",),
        "before": ("tags.label", "tags.probability"),
        "after": ("tags.label", "tags.probability"),
    },
    "title_embeddings": {
        "embedding": ("contextual_embeddings.last", "fused_embeddings.embedding", "global_embeddings.embedding"),
        "contextual": ("contextual_embeddings.last",),
        **dict.fromkeys(("video", "audio", "text"), ("fused_embeddings.embedding",)),
        "metadata": ("global_embeddings.embedding",),
    },
    "title_metrics": dict.fromkeys(
        ("value", "ci_low", "ci_high"),
        (
            *(f"title_embeddings.{part}" for part in ("embedding", *TITLE_PARTS)),
            *("titles.genres", "titles.series_id"),
        ),
    ),
    "title_neighbours": {
        "neighbour_id": ("title_embeddings.title_id",),
        "score": ("title_embeddings.embedding",),
        **{part: (f"title_embeddings.{part}",) for part in ("contextual", "video", "audio", "text", "metadata")},
    },
}
"""By table and column. Raw columns of the landing zone, and constants such as an encoder's name, have no entry."""


def column_lineage(table: str) -> dg.TableColumnLineage:
    """What Dagster is told of the table's columns; those without an entry are left out."""
    declared = [column.name for column in TABLES[table].columns]
    named = {name: (source,) for name, source in NAMES.items() if name in declared and table not in NAMED_ANEW}
    made = {**named, **MADE_FROM.get(table, {})}
    return dg.TableColumnLineage(
        {
            name: [dg.TableColumnDep(dg.AssetKey(source.split(".")[0]), source.split(".")[1]) for source in sources]
            for name, sources in made.items()
        }
    )
