"""One embedding per shot and modality, one per title, and the fused vector of each shot."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mediafm_assets.defs.ingest import cues_of, registered_drop
from mediafm_assets.graph.materialise import TitleRun
from mediafm_assets.graph.stage import Recipe, Stage
from mediafm_assets.graph.versions import Catalogue, title_text
from model.modalities import MODALITIES, WIDTHS
from resources.encoders import AudioEncoder, TextEncoder, VideoEncoder
from resources.lake import vectors
from resources.timed_text import choose_track

if TYPE_CHECKING:
    import numpy as np

    from mediafm_assets.graph.materialise import Rows


def embedding_rows(modality: str, vectors: "Sequence[np.ndarray | None]", encoder: str) -> "dict[str, Any]":
    """Columns of an embedding table; a shot without the modality is a zero vector whose `present` is false."""
    import numpy as np

    absent = np.zeros(dict(WIDTHS)[modality], dtype=np.float32)
    return {
        "shot_index": range(len(vectors)),
        "embedding": [absent if vector is None else vector for vector in vectors],
        "present": [vector is not None for vector in vectors],
        "encoder": [encoder] * len(vectors),
    }


def embedded(run: TitleRun, encoder: TextEncoder, texts: Sequence[str]) -> "np.ndarray":
    """The texts' vectors; what a paid encoder took for them is noted, even if it failed."""
    try:
        return encoder.embed(texts)
    finally:
        if encoder.last_usage is not None:
            run.notes.update(dataclasses.asdict(encoder.last_usage))


def video_embeddings(run: TitleRun, title_id: str) -> "Rows":
    """Embed each shot's sampled frames; what is only heard has none."""
    import polars as pl

    from resources.pictures import self_similarity

    encoder: VideoEncoder = run.resources.video_encoder
    frames = run.read("shot_frames", title_id)
    shots = frames.group_by("shot_index", maintain_order=True).agg(pl.col("jpeg").drop_nulls())["jpeg"]
    seen = [shot for shot, jpegs in enumerate(shots) if len(jpegs)]
    made: list[np.ndarray | None] = [None] * len(shots)
    for shot, vector in zip(seen, encoder.embed(shots[shot].to_list() for shot in seen), strict=True):
        made[shot] = vector
    rows = pl.DataFrame(embedding_rows("video", made, encoder.space()))
    if seen:
        likeness = "how like each shot is to each other; bright is alike, the title runs right and down"
        run.draw("self_similarity", likeness, lambda: self_similarity(vectors(rows)))
    yield "video_embeddings", rows


def audio_embeddings(run: TitleRun, title_id: str) -> "Rows":
    """Embed each shot's sound, decoded in one pass over the audio stream; a silent film's shots have none."""
    import polars as pl

    from resources.media import shot_audio
    from resources.pictures import Sound

    encoder: AudioEncoder = run.resources.audio_encoder
    drop, title = registered_drop(run, title_id)
    spans = run.read("shots", title_id).select("start_s", "end_s").rows()
    made: list[np.ndarray | None] = [None] * len(spans)
    if title["has_audio"]:
        with run.landing.local(drop, drop.media) as film:
            shots = shot_audio(film, spans, language=title["language"])
            sound = Sound(spans)
            made = list(encoder.embed(sound.listen(shots) if run.may_draw() else shots))
        if sound.heard:
            run.draw("sound", "frequencies over time, low ones below; the shots beneath in two greys", sound.strip)
    yield "audio_embeddings", pl.DataFrame(embedding_rows("audio", made, encoder.space()))


def text_embeddings(run: TitleRun, title_id: str) -> "Rows":
    """Give each cue of the title's track to the shots in which it is heard, and embed each shot's words."""
    import polars as pl

    from resources.timed_text import align

    encoder: TextEncoder = run.resources.text_encoder
    spans = run.read("shots", title_id).select("start_s", "end_s").rows()
    track, cues = cues_of(run, title_id)
    texts = align(cues, spans)
    spoken = [shot for shot, text in enumerate(texts) if text.strip()]
    made: list[np.ndarray | None] = [None] * len(spans)
    if spoken:
        for shot, vector in zip(spoken, embedded(run, encoder, [texts[shot] for shot in spoken]), strict=True):
            made[shot] = vector
    run.notes.update(track=track.name if track else "none", shots_with_text=len(spoken))
    track_name = [track.name if track else None] * len(spans)
    yield (
        "text_embeddings",
        pl.DataFrame({**embedding_rows("text", made, encoder.space()), "text": texts, "track": track_name}),
    )


def texts_of_shots(catalogue: Catalogue, title_id: str) -> tuple[Sequence[str], bool]:
    """What is said in each shot; before the shots of this very film are known, with those of the film before it or,
    without any, cue by cue."""
    from resources.timed_text import align, read_cues

    landing = catalogue.resources["landing"]
    drop = landing.drop(title_id)
    track = choose_track(drop.text_tracks, drop.language)
    if track is None:
        return [], True
    with landing.local(drop, track.name) as path:
        cues = read_cues(path)
    if catalogue.stored("shots", title_id) is None:
        return [cue.text for cue in cues], False
    spans = catalogue.lake.read("shots", title_id=title_id).select("start_s", "end_s").rows()
    exact = catalogue.is_registered(title_id, drop.drop_fingerprint) and catalogue.is_fresh("shots", title_id)
    return [text for text in align(cues, spans) if text.strip()], exact


def text_of_title(catalogue: Catalogue, title_id: str) -> tuple[Sequence[str], bool]:
    """The title's metadata, as dropped."""
    return [title_text(vars(catalogue.resources["landing"].drop(title_id)))], True


def global_embeddings(run: TitleRun, title_id: str) -> "Rows":
    """Embed the title's metadata: what [GLOBAL] tells every shot."""
    import polars as pl

    encoder: TextEncoder = run.resources.title_encoder
    text = title_text(run.read("titles", title_id).row(0, named=True))
    vector = embedded(run, encoder, [text])[0]
    yield "global_embeddings", pl.DataFrame({"embedding": [vector], "text": [text], "encoder": [encoder.space()]})


def fused_embeddings(run: TitleRun, title_id: str) -> "Rows":
    """Concatenate each shot's embeddings into one unit vector; an absent modality is a block of zeros."""
    import polars as pl

    from model.fusion import block_energy, fuse

    tables = {modality.name: run.read(modality.table, title_id) for modality in MODALITIES}
    embeddings = {name: (vectors(table), table["present"].to_numpy()) for name, table in tables.items()}
    fused = fuse(embeddings, run.resources.fusion.kind)
    present = {f"has_{m.name}": embeddings[m.name][1] for m in MODALITIES}
    run.notes.update({f"energy_{block}": share for block, share in block_energy(fused).items()})
    run.notes.update({name.replace("has_", "shots_with_"): int(flags.sum()) for name, flags in present.items()})
    rows = run.read("shots", title_id).select("shot_index", "start_s", "end_s")
    yield (
        "fused_embeddings",
        rows.with_columns(
            pl.Series("embedding", list(fused)),
            *(pl.Series(name, flags) for name, flags in present.items()),
            space=pl.lit(run.catalogue.fused_space()),
        ),
    )


STAGES = (
    Stage((Recipe("video_embeddings", ("shot_frames",), "video_encoder"),), "embeddings", video_embeddings),
    Stage((Recipe("audio_embeddings", ("shots", "sound"), "audio_encoder"),), "embeddings", audio_embeddings),
    Stage(
        (Recipe("text_embeddings", ("shots", "timed_text"), "text_encoder"),),
        "embeddings",
        text_embeddings,
        texts=texts_of_shots,
    ),
    Stage(
        (Recipe("global_embeddings", ("metadata",), "title_encoder"),),
        "embeddings",
        global_embeddings,
        texts=text_of_title,
    ),
    Stage(
        (
            Recipe(
                "fused_embeddings",
                ("shots", *(modality.table for modality in MODALITIES)),
                "fusion",
            ),
        ),
        "embeddings",
        fused_embeddings,
        kinds=frozenset({"numpy"}),
    ),
)
