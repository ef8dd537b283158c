"""One embedding per shot and modality, one per title, and the fused vector of each shot."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import dagster as dg

from mediafm_assets.graph import TITLE_RESOURCES, title_spec
from mediafm_assets.ingest import registered_drop
from mediafm_assets.materialise import Results, catalogue_of, materialise_titles
from mediafm_assets.versions import Shaping, TextTrack, title_text
from resources.audio_encoders import AudioEncoder
from resources.lake import DeltaLake
from resources.landing import LandingZone
from resources.tables import vectors
from resources.text_encoders import TextEncoder
from resources.timed_text import choose_track
from resources.video_encoders import VideoEncoder

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Rows = Iterator[tuple[str, pl.DataFrame]]

WIDTH = 768


class Fusion(dg.ConfigurableResource[Any]):
    """How the three embeddings of a shot become one.

    kind: "balanced" (each present modality unit-normed first) or "as_published" (concatenated as they are).
    """

    kind: str = "balanced"

    def config_key(self) -> str:
        return self.kind

    def space(self) -> str:
        return self.kind


def embedding_rows(vectors: "Sequence[np.ndarray | None]", encoder: str) -> "dict[str, Any]":
    """Columns of an embedding table; a shot without the modality is a zero vector whose `present` is false."""
    import numpy as np

    absent = np.zeros(WIDTH, dtype=np.float32)
    return {
        "shot_index": range(len(vectors)),
        "embedding": [absent if vector is None else vector for vector in vectors],
        "present": [vector is not None for vector in vectors],
        "encoder": [encoder] * len(vectors),
    }


def usage_notes(encoder: TextEncoder) -> dict[str, Any]:
    """What a paid encoder's latest texts took, for the materialisation's metadata; nothing of a free one."""
    return {} if encoder.last_usage is None else dataclasses.asdict(encoder.last_usage)


def build(shaping: Mapping[str, Shaping]) -> list[dg.AssetsDefinition]:
    """The assets of this file, for resources that shape their values."""

    @dg.multi_asset(
        name="video_embeddings",
        specs=[title_spec("video_embeddings", group="embeddings", deps=["shot_frames"], shaping=shaping)],
        required_resource_keys=TITLE_RESOURCES,
        pool="gpu",
    )
    def video_embeddings(context: dg.AssetExecutionContext) -> Results:
        """Embed each shot's sampled frames."""
        lake: DeltaLake = context.resources.lake
        encoder: VideoEncoder = context.resources.video_encoder

        def embed(title_id: str) -> "Rows":
            import polars as pl

            frames = lake.read("shot_frames", title_id=title_id).sort("shot_index", "frame_index")
            shots = frames.group_by("shot_index", maintain_order=True).agg("jpeg")["jpeg"]
            made = list(encoder.embed(jpegs.to_list() for jpegs in shots))
            yield "video_embeddings", pl.DataFrame(embedding_rows(made, encoder.space()))

        yield from materialise_titles(context, ("video_embeddings",), embed)

    @dg.multi_asset(
        name="audio_embeddings",
        specs=[title_spec("audio_embeddings", group="embeddings", deps=["titles", "shots"], shaping=shaping)],
        required_resource_keys=TITLE_RESOURCES | {"landing"},
        pool="gpu",
    )
    def audio_embeddings(context: dg.AssetExecutionContext) -> Results:
        """Embed each shot's sound, decoded in one pass over the audio stream; a silent film's shots have none."""
        lake: DeltaLake = context.resources.lake
        landing: LandingZone = context.resources.landing
        encoder: AudioEncoder = context.resources.audio_encoder

        def embed(title_id: str) -> "Rows":
            import polars as pl

            from resources.media import shot_audio

            drop, title = registered_drop(lake, landing, title_id)
            spans = lake.read("shots", title_id=title_id).sort("shot_index").select("start_s", "end_s").rows()
            if title["has_audio"]:
                with landing.local(drop, drop.media) as film:
                    made = list(encoder.embed(shot_audio(film, spans, language=title["language"])))
            else:
                made = [None] * len(spans)
            yield "audio_embeddings", pl.DataFrame(embedding_rows(made, encoder.space()))

        yield from materialise_titles(context, ("audio_embeddings",), embed)

    @dg.multi_asset(
        name="text_embeddings",
        specs=[title_spec("text_embeddings", group="embeddings", deps=["titles", "shots"], shaping=shaping)],
        required_resource_keys=TITLE_RESOURCES | {"landing"},
    )
    def text_embeddings(context: dg.AssetExecutionContext) -> Results:
        """Give each cue of the title's track to the shots in which it is heard, and embed each shot's words."""
        lake: DeltaLake = context.resources.lake
        landing: LandingZone = context.resources.landing
        encoder: TextEncoder = context.resources.text_encoder
        notes: dict[str, Any] = {}

        def embed(title_id: str) -> "Rows":
            import polars as pl

            from resources.timed_text import align, read_cues

            drop, title = registered_drop(lake, landing, title_id)
            spans = lake.read("shots", title_id=title_id).sort("shot_index").select("start_s", "end_s").rows()
            track = choose_track([TextTrack(**track) for track in title["text_tracks"]], title["language"])
            texts = [""] * len(spans)
            if track:
                with landing.local(drop, track.name) as path:
                    texts = align(read_cues(path), spans)
            spoken = [shot for shot, text in enumerate(texts) if text.strip()]
            made: list[np.ndarray | None] = [None] * len(spans)
            if spoken:
                for shot, vector in zip(spoken, encoder.embed([texts[shot] for shot in spoken]), strict=True):
                    made[shot] = vector
                notes.update(usage_notes(encoder))
            notes.update(track=track.name if track else "none", shots_with_text=len(spoken))
            columns = embedding_rows(made, encoder.space())
            track_name = [track.name if track else None] * len(spans)
            yield "text_embeddings", pl.DataFrame({**columns, "text": texts, "track": track_name})

        yield from materialise_titles(context, ("text_embeddings",), embed, notes)

    @dg.multi_asset(
        name="global_embeddings",
        specs=[title_spec("global_embeddings", group="embeddings", deps=["titles"], shaping=shaping)],
        required_resource_keys=TITLE_RESOURCES,
    )
    def global_embeddings(context: dg.AssetExecutionContext) -> Results:
        """Embed the title's metadata: what [GLOBAL] tells every shot."""
        lake: DeltaLake = context.resources.lake
        encoder: TextEncoder = context.resources.title_encoder
        notes: dict[str, Any] = {}

        def embed(title_id: str) -> "Rows":
            import polars as pl

            text = title_text(lake.read("titles", title_id=title_id).row(0, named=True))
            vector = encoder.embed([text])[0]
            notes.update(usage_notes(encoder))
            yield (
                "global_embeddings",
                pl.DataFrame({"embedding": [vector], "text": [text], "encoder": [encoder.space()]}),
            )

        yield from materialise_titles(context, ("global_embeddings",), embed, notes)

    @dg.multi_asset(
        name="fused_embeddings",
        specs=[
            title_spec(
                "fused_embeddings",
                group="embeddings",
                deps=["video_embeddings", "audio_embeddings", "text_embeddings"],
                shaping=shaping,
                kinds={"numpy"},
            )
        ],
        required_resource_keys=TITLE_RESOURCES,
    )
    def fused_embeddings(context: dg.AssetExecutionContext) -> Results:
        """Concatenate each shot's three embeddings into one unit vector; an absent modality is a block of zeros."""
        lake: DeltaLake = context.resources.lake
        fusion: Fusion = context.resources.fusion
        notes: dict[str, Any] = {}

        def fuse_title(title_id: str) -> "Rows":
            import polars as pl

            from model.fusion import block_energy, fuse

            shots = lake.read("shots", title_id=title_id).sort("shot_index")
            tables = [
                lake.read(table, title_id=title_id).sort("shot_index")
                for table in ("video_embeddings", "audio_embeddings", "text_embeddings")
            ]
            video, audio, text = (vectors(table) for table in tables)
            has_audio, has_text = (table["present"].to_numpy() for table in tables[1:])
            fused = fuse(
                video, audio, text, has_audio, has_text, fusion=cast("Literal['balanced', 'as_published']", fusion.kind)
            )
            notes.update({f"energy_{block}": share for block, share in block_energy(fused).items()})
            notes["shots_with_text"] = int(has_text.sum())
            space = catalogue_of(context).fused_space()
            yield (
                "fused_embeddings",
                shots.select("shot_index", "start_s", "end_s").with_columns(
                    pl.Series("embedding", list(fused)),
                    pl.Series("has_audio", has_audio),
                    pl.Series("has_text", has_text),
                    space=pl.lit(space),
                ),
            )

        yield from materialise_titles(context, ("fused_embeddings",), fuse_title, notes)

    return [video_embeddings, audio_embeddings, text_embeddings, global_embeddings, fused_embeddings]
