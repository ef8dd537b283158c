"""One embedding per shot and modality, one per title, and the fused vector of each shot."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeVar

from mediafm_assets.defs.ingest import cues_of, registered_drop
from mediafm_assets.graph.materialise import TitleRun
from mediafm_assets.graph.stage import Recipe, Stage
from mediafm_assets.graph.versions import Catalogue, digest, title_text
from model.modalities import FUSED_DIM, MODALITIES, WIDTHS
from resources.encoders import AudioEncoder, OmniEncoder, TextEncoder, VideoEncoder
from resources.lake import PartitionMissing, vectors
from resources.timed_text import choose_track

if TYPE_CHECKING:
    import numpy as np

    from mediafm_assets.graph.materialise import Rows

Content = TypeVar("Content")


def embedded_or_stored(
    run: TitleRun,
    title_id: str,
    table: str,
    space: str,
    shots: "Iterable[tuple[str, Content] | None]",
    embed: "Callable[[Iterator[Content]], Iterable[np.ndarray | None]]",
) -> "tuple[list[np.ndarray | None], list[str | None]]":
    """Each shot's vector and `input_hash`. Only what is not stored is embedded: so of a film that grows what is new,
    and of a subtitle that is corrected the words that are others.

    shots: what is embedded of each, with its hash; None for one without anything, which has no vector. embed: gives the
    vectors of some in their order, in that space.
    """
    stored: dict[str, np.ndarray] = {}
    if table not in run.forced:
        with suppress(PartitionMissing):
            rows = run.read(table, title_id)
            stored = dict(zip(rows["input_hash"], vectors(rows), strict=True))
    made: list[np.ndarray | None] = []
    hashes: list[str | None] = []
    new: list[int] = []

    def not_stored() -> "Iterator[Content]":
        for place, shot in enumerate(shots):
            told = shot and digest(run.catalogue.stages.recipe[table].code, space, shot[0])
            hashes.append(told)
            made.append(stored.get(told) if told else None)
            if shot and made[-1] is None:
                new.append(place)
                yield shot[1]

    for number, vector in enumerate(embed(not_stored())):
        made[new[number]] = vector
    return made, [None if vector is None else told for vector, told in zip(made, hashes, strict=True)]


def embedding_columns(
    run: TitleRun,
    title_id: str,
    modality: str,
    space: str,
    shots: "Iterable[tuple[str, Content] | None]",
    embed: "Callable[[Iterator[Content]], Iterable[np.ndarray | None]]",
) -> dict[str, Any]:
    """Columns of an embedding table, from what `embedded_or_stored` takes; a shot without the modality has a zero
    vector whose `present` is false."""
    import numpy as np

    made, hashes = embedded_or_stored(run, title_id, f"{modality}_embeddings", space, shots, embed)
    absent = np.zeros(dict(WIDTHS)[modality], dtype=np.float32)
    return {
        "shot_index": range(len(made)),
        "embedding": [absent if vector is None else vector for vector in made],
        "present": [vector is not None for vector in made],
        "encoder": [space] * len(made),
        "input_hash": hashes,
    }


def hash_of(*content: Any) -> str:
    """128 bits over bytes, or an array's numbers, as hex; the pieces' lengths count."""
    whole = hashlib.blake2b(digest_size=16)
    for piece in content:
        whole.update(b"%d:" % len(piece))
        whole.update(piece)
    return whole.hexdigest()


def embedded(run: TitleRun, encoder: TextEncoder, texts: Sequence[str]) -> "np.ndarray":
    """The texts' vectors; what a paid encoder took for them is noted, even if it failed."""
    try:
        return encoder.embed(texts)
    finally:
        if encoder.last_usage is not None:
            run.notes.update(dataclasses.asdict(encoder.last_usage))


def frames_of_shots(run: TitleRun, title_id: str) -> Iterator[list[bytes]]:
    """Each shot's sampled frames; none of what is only heard."""
    import polars as pl

    frames = run.read("shot_frames", title_id)
    shots = frames.group_by("shot_index", maintain_order=True).agg(pl.col("jpeg").drop_nulls())["jpeg"]
    return (jpegs.to_list() for jpegs in shots)


def video_embeddings(run: TitleRun, title_id: str) -> "Rows":
    """Embed each shot's sampled frames; what is only heard has none."""
    import polars as pl

    from resources.pictures import self_similarity

    encoder: VideoEncoder = run.resources.video_encoder
    seen = ((hash_of(*jpegs), jpegs) if jpegs else None for jpegs in frames_of_shots(run, title_id))
    rows = pl.DataFrame(embedding_columns(run, title_id, "video", encoder.space(), seen, encoder.embed))
    if rows["present"].any():
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
    sound = Sound(spans)
    with ExitStack() as held:
        heard: Iterable[tuple[str, np.ndarray] | None] = [None] * len(spans)
        if title["has_audio"]:
            film = held.enter_context(run.landing.media(drop))
            shots: Iterable[np.ndarray] = shot_audio(film, spans, language=title["language"])
            heard = ((hash_of(samples), samples) for samples in (sound.listen(shots) if run.may_draw() else shots))
        columns = embedding_columns(run, title_id, "audio", encoder.space(), heard, encoder.embed)
    if sound.heard:
        run.draw("sound", "frequencies over time, low ones below; the shots beneath in two greys", sound.strip)
    yield "audio_embeddings", pl.DataFrame(columns)


def text_embeddings(run: TitleRun, title_id: str) -> "Rows":
    """Give each cue of the title's track to the shots in which it is heard, and embed each shot's words."""
    import polars as pl

    from resources.timed_text import align

    encoder: TextEncoder = run.resources.text_encoder
    spans = run.read("shots", title_id).select("start_s", "end_s").rows()
    track, cues = cues_of(run, title_id)
    texts = align(cues, spans)
    spoken = [(hash_of(text.encode()), text) if text.strip() else None for text in texts]

    def embed(some: Iterator[str]) -> "Iterable[np.ndarray]":
        new = list(some)
        return embedded(run, encoder, new) if new else ()

    columns = embedding_columns(run, title_id, "text", encoder.space(), spoken, embed)
    run.notes.update(track=track.name if track else "none", shots_with_text=sum(columns["present"]))
    track_name = [track.name if track else None] * len(spans)
    yield "text_embeddings", pl.DataFrame({**columns, "text": texts, "track": track_name})


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
    """Concatenate each shot's embeddings into one unit vector; an absent modality is a block of zeros. Or have a
    multimodal model read the shot's modalities together, which gives such blocks, too."""
    import polars as pl

    from model.fusion import block_energy, fuse

    tables = {modality.name: run.read(modality.table, title_id) for modality in MODALITIES}
    embeddings = {name: (vectors(table), table["present"].to_numpy()) for name, table in tables.items()}
    hashes: list[str | None] = [None] * len(tables["text"])
    if run.resources.fusion.kind == "omni":
        fused, hashes = read_together(run, title_id, tables["text"]["text"])
    else:
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
            pl.Series("input_hash", hashes, dtype=pl.String),
            space=pl.lit(run.catalogue.fused_space()),
        ),
    )


def read_together(run: TitleRun, title_id: str, words: Iterable[str]) -> "tuple[np.ndarray, list[str | None]]":
    """Each shot's fused vector (n, 2304) and its `input_hash`, by a model that reads its frames, its sound and its
    words, which are given."""
    import numpy as np

    from model.fusion import fuse
    from resources.encoders.omni.encoder import Shot
    from resources.media import shot_audio

    encoder: OmniEncoder = run.resources.fusion.omni
    drop, title = registered_drop(run, title_id)
    spans = run.read("shots", title_id).select("start_s", "end_s").rows()
    frames = frames_of_shots(run, title_id)

    def contents(sounds: "Iterable[np.ndarray]") -> "Iterator[tuple[str, Shot] | None]":
        for (start, end), seen, heard, said in zip(spans, frames, sounds, words, strict=True):
            told = hash_of(*seen, heard, said.encode(), str(end - start).encode())
            something = seen or len(heard) or said.strip()
            yield (told, Shot(end - start, seen, heard, said)) if something else None

    def fused(shots: Iterator[Shot]) -> "Iterator[np.ndarray]":
        for blocks in encoder.embed(shots):
            yield fuse({name: (block[None], np.array([block.any()])) for name, block in blocks.items()})[0]

    with ExitStack() as held:
        sounds: Iterable[np.ndarray] = repeat(np.zeros(0, np.float32), len(spans))
        if title["has_audio"]:
            film = held.enter_context(run.landing.media(drop))
            sounds = shot_audio(film, spans, language=title["language"])
        made, hashes = embedded_or_stored(run, title_id, "fused_embeddings", encoder.space(), contents(sounds), fused)
    nothing = np.zeros(FUSED_DIM, dtype=np.float32)
    return np.stack([nothing if vector is None else vector for vector in made]), hashes


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
