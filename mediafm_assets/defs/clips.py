"""Labelled clips through other encoders of clips, which are probed beside our own representations."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mediafm_assets.defs.ingest import registered_drop
from mediafm_assets.defs.labels import stored_clips
from mediafm_assets.graph.plan import tasks_to_make
from mediafm_assets.graph.stage import Recipe, Stage
from mediafm_assets.graph.versions import Catalogue, digest
from mediafm_assets.graph.whole import CatalogueRun
from model.tasks import SCENES
from resources.encoders.clips.asking import Asked, Clip, Cuts, put_to
from resources.encoders.clips.encoder import ClipEncoder
from resources.errors import BadInput, Unavailable

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from mediafm_assets.graph.materialise import Rows


def clip_encoders(catalogue: Catalogue) -> dict[str, ClipEncoder]:
    found: dict[str, ClipEncoder] = catalogue.resources["clip_encoders"].encoders()
    return found


def without_encoders(catalogue: Catalogue) -> str | None:
    """Why there is nothing to do, where no clip encoder is configured."""
    if catalogue.resources["clip_encoders"].names:
        return None
    return "no clip encoder is configured; set MEDIAFM_CLIP_ENCODERS to compare with some"


def labelled_clips(catalogue: Catalogue) -> list[Clip]:
    """The clips of all tasks in titles that are registered, those of a title in a row."""
    return [clip for clip in with_titles(catalogue, stored_clips(catalogue).collect()) if clip.media_sha256]


def with_titles(catalogue: Catalogue, labels: "pl.DataFrame") -> list[Clip]:
    """Of a title that is live the film is not known yet: what is asked of it is asked when it is over."""
    import polars as pl

    known = pl.when(~pl.col("live")).then("media_sha256").alias("media_sha256")
    titles = catalogue.lake.scan("titles").select("title_id", known, "language").collect()
    spans = labels.select("title_id", "start_s", "end_s").unique().join(titles, on="title_id", how="left")
    rows = spans.sort("title_id", "start_s", "end_s").iter_rows()
    return [Clip(title, start, end, sha256 or "", language) for title, start, end, sha256, language in rows]


def clips_version(catalogue: Catalogue) -> str:
    """The version of the clips' vectors: of the films by content, the spans, and the encoders' spaces."""
    spaces = sorted(encoder.space() for encoder in clip_encoders(catalogue).values())
    clips = catalogue.once(labelled_clips)
    return digest(
        catalogue.stages.recipe["clip_embeddings"].code, *(clip.key(space) for space in spaces for clip in clips)
    )


def stored_version(catalogue: Catalogue) -> dict[tuple[str, ...], str]:
    """The version, once every clip has been put to every encoder that takes it."""
    if without_encoders(catalogue) or any(missing(catalogue, catalogue.once(labelled_clips)).values()):
        return {}
    return {(): clips_version(catalogue)}


def missing(catalogue: Catalogue, clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    """By encoder, the clips that it takes and was not asked for yet."""
    from resources.lake.clip_cache import known_keys

    encoders = clip_encoders(catalogue)
    spaces = {name: encoder.space() for name, encoder in encoders.items()}
    there = known_keys(catalogue.lake, [clip.key(space) for space in spaces.values() for clip in clips])
    return {
        name: [
            clip for clip in clips if clip.seconds <= encoder.limits.longest_s and clip.key(spaces[name]) not in there
        ]
        for name, encoder in encoders.items()
    }


def price(catalogue: Catalogue) -> float:
    """What the clips that no encoder was asked for yet cost at list price, with those of labels that are not read
    yet."""
    import polars as pl

    landing = catalogue.resources["landing"]
    spans = [stored_clips(catalogue).collect()]
    for todo in tasks_to_make(catalogue):
        if todo.task == SCENES:
            continue
        with suppress(BadInput):  # a file that cannot be used adds no clips
            unread = landing.labels(todo.task)
            spans += [unread.rows] if unread else []
    labels = pl.concat(rows.select("title_id", "start_s", "end_s") for rows in spans)
    encoders = clip_encoders(catalogue)
    asked = missing(catalogue, with_titles(catalogue, labels))
    return sum(encoders[name].dollars(clip.seconds) for name, clips in asked.items() for clip in clips)


def clip_embeddings(run: CatalogueRun) -> "Rows":
    """Put every labelled clip to every encoder, what each was not asked for before.

    A film is decoded once for all its clips. What was paid for is stored as it comes, the rest film by film. What one
    encoder or title cannot do harms no other; it is said at the end.
    """
    import polars as pl

    from resources.lake.clip_cache import has_vectors

    encoders = clip_encoders(run.catalogue)
    asked = {name: Asked(encoder) for name, encoder in encoders.items()}
    clips = run.catalogue.once(labelled_clips)
    wanted = {name: set(some) for name, some in missing(run.catalogue, clips).items()}
    there = len(clips) * len(encoders) - sum(map(len, wanted.values()))
    run.notes.update(tokens=0, cost_usd=0.0, from_cache=there, sent=0)
    problems = []
    for title_id, of_title in groupby(clips, key=lambda clip: clip.title_id):
        its_clips = list(of_title)
        todo = {
            name: [clip for clip in its_clips if clip in some]
            for name, some in wanted.items()
            if not asked[name].stopped
        }
        if not any(todo.values()):
            continue
        free: dict[str, list[pl.DataFrame]] = {}
        try:
            for name, clip, made in put_to(asked, todo, cuts_of(run, title_id, todo)):
                run.notes["sent"] += 1
                run.notes["cost_usd"] = sum(encoder.dollars for encoder in asked.values())
                if encoders[name].dollars(clip.seconds):
                    yield "clip_embeddings", row(name, encoders[name], clip, made)
                else:
                    free.setdefault(name, []).append(row(name, encoders[name], clip, made))
        except BadInput as error:
            problems.append(f"{title_id}: {error}")
        for rows in free.values():
            yield "clip_embeddings", pl.concat(rows)
    for name, encoder in asked.items():
        if not encoder.stopped and has_vectors(run.lake, encoder.encoder.space()):  # it is as it was: so are they
            for clip, why in encoder.held:
                yield "clip_embeddings", row(name, encoder.encoder, clip, why)
            encoder.held = []
        held = [f"{clip.title_id}, {clip.start_s:g} to {clip.end_s:g} s: {why}" for clip, why in encoder.held]
        problems += [f"{name}: {'; '.join(filter(None, [encoder.stopped, *held]))}"] if encoder.stopped or held else []
    if problems:
        raise Unavailable("; ".join(problems))


def cuts_of(run: CatalogueRun, title_id: str, todo: Mapping[str, Sequence[Clip]]) -> Callable[[Path], Cuts]:
    """What cuts the title's clips into a folder. Raises BadInput when the title's drop is not the registered one."""
    from resources.media import cut_clips

    drop, title = registered_drop(run, title_id)
    left = {(clip.start_s, clip.end_s): clip for clips in todo.values() for clip in clips}

    def cuts(folder: Path) -> Cuts:
        with run.landing.media(drop) as film:
            why = "no picture of the film lies in it"
            try:
                for span, file in cut_clips(film, list(left), folder, title["language"]):
                    yield left.pop(span), file
            except BadInput as error:
                why = str(error)
            yield from ((clip, why) for clip in left.values())

    return cuts


def row(name: str, encoder: ClipEncoder, clip: Clip, made: "np.ndarray | str") -> "pl.DataFrame":
    import polars as pl

    from resources.lake import polars_schema

    reason = made if isinstance(made, str) else None
    values = {
        "key": clip.key(encoder.space()),
        "clip_encoder": name,
        "space": encoder.space(),
        "media_sha256": clip.media_sha256,
        "start_s": clip.start_s,
        "end_s": clip.end_s,
        "embedding": None if reason is not None else made,
        "reason": reason,
    }
    return pl.DataFrame([values], schema=dict(polars_schema("clip_embeddings")))


def vectors_of_clips(
    catalogue: Catalogue, spans: "Iterable[tuple[str, float, float]]"
) -> "dict[str, dict[tuple[str, float, float], np.ndarray | str]]":
    """By encoder, each clip's vector, or why it has none. spans: (title id, start, end) of registered titles."""
    from resources.lake.clip_cache import known

    titles = catalogue.lake.scan("titles").select("title_id", "media_sha256", "language").collect()
    by_title = {title: (sha256, language) for title, sha256, language in titles.iter_rows()}
    clips = [Clip(*span, *by_title[span[0]]) for span in spans]
    found: dict[str, dict[tuple[str, float, float], np.ndarray | str]] = {}
    for name, encoder in clip_encoders(catalogue).items():
        space, longest_s = encoder.space(), encoder.limits.longest_s
        there = known(catalogue.lake, [clip.key(space) for clip in clips])
        found[name] = {}
        for clip in clips:
            if clip.seconds > longest_s:
                made: np.ndarray | str = f"longer than the {longest_s:g} s that {name} takes"
            elif said := there.get(clip.key(space)):
                made = said.vector if said.vector is not None else said.reason or ""
            else:
                made = "not embedded yet: materialise clip_embeddings"
            found[name][clip[:3]] = made
    return found


def described(run: CatalogueRun) -> dict[str, Any]:
    """What the materialisation says: how many clips each encoder has embedded, and why it has not the others."""
    from collections import Counter

    spans = [clip[:3] for clip in run.catalogue.once(labelled_clips)]
    said: dict[str, Any] = {}
    for name, vectors in vectors_of_clips(run.catalogue, spans).items():
        reasons = Counter(made for made in vectors.values() if isinstance(made, str))
        said[f"{name}_clips"] = len(vectors) - reasons.total()
        said[f"{name}_without"] = [f"{count}: {reason}" for reason, count in reasons.most_common(10)]
    return said


STAGES = (
    Stage(
        (Recipe("clip_embeddings", ("clip_labels", "titles")),),
        "evaluation",
        clip_embeddings,
        scope="catalogue",
        version=clips_version,
        off=without_encoders,
        dollars=price,
        describe=described,
        stored=stored_version,
        uses=frozenset({"clip_encoders"}),
    ),
)
