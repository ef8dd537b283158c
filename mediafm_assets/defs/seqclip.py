"""SeqCLIP: the CLIP model of the video encoder, fine-tuned on clips and sentences about them."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from mediafm_assets.graph.stage import Recipe, Stage
from mediafm_assets.graph.versions import Catalogue, digest
from mediafm_assets.graph.whole import CatalogueRun
from resources.errors import BadInput
from resources.lake import DeltaLake
from resources.landing import CaptionedClip, LandingZone

if TYPE_CHECKING:
    from model.seqclip import FineTuning


def base_folder(catalogue: Catalogue) -> Path:
    """The checkpoint that the fine-tune begins with. Raises Unavailable when there is none that can be fine-tuned."""
    folder: Path = catalogue.resources["seqclip_config"].base_folder()
    return folder


def settings(catalogue: Catalogue) -> "FineTuning":
    """Raises BadInput for settings that cannot be."""
    found: FineTuning = catalogue.resources["seqclip_config"].settings()
    return found


def captioned_clips(catalogue: Catalogue) -> tuple[str, list[CaptionedClip]]:
    """Where the clips to learn from come from, in words, and the clips, those of a title or video in a row.

    They are those of the landing zone's pairs files, or, without such a file, the catalogue's own shots, each with what
    is said in it. Raises BadInput when they are too few, or their titles' tables are missing or out of date.
    """
    landing: LandingZone = catalogue.resources["landing"]
    catalogue.read_all_titles()
    clips, source = landing.captioned_clips(), f"pairs/*.jsonl in {landing.uri}"
    if clips is None:
        clips, source = shots_and_cues(catalogue.lake), "the catalogue's own shots and cues"
        refuse_stale(catalogue, clips, ("shots", "shot_frames", "text_embeddings"))
    else:
        refuse_stale(catalogue, clips, ("shot_frames",))
    works = {series_of(catalogue, clip) or name_of(clip) for clip in clips}
    if len(works) < 2:
        raise BadInput(
            f"there are captions of {len(works)} titles ({source}); at least two are needed, to hold one out, and the "
            "episodes of a series count as one"
        )
    return source, sorted(clips, key=film_of)


def shots_and_cues(lake: DeltaLake) -> list[CaptionedClip]:
    """Every shot of the lake that is seen and in which something is said, with the words."""
    import polars as pl

    seen = lake.scan("titles").filter(pl.col("has_picture")).select("title_id")
    said = lake.scan("text_embeddings").filter(pl.col("present")).select("title_id", "shot_index", "text")
    said = said.join(seen, on="title_id", how="semi")
    shots = lake.scan("shots").select("title_id", "shot_index", "start_s", "end_s")
    rows = said.join(shots, on=["title_id", "shot_index"]).sort("title_id", "shot_index").collect()
    return [
        CaptionedClip(row["text"], f"shot {row['shot_index']}", None, row["title_id"], row["start_s"], row["end_s"])
        for row in rows.iter_rows(named=True)
    ]


def refuse_stale(catalogue: Catalogue, clips: Sequence[CaptionedClip], tables: Sequence[str]) -> None:
    """Raises BadInput, naming the titles, when some title of the clips has not all of the tables, or has old ones."""
    first = {clip.title_id: clip.where for clip in reversed(clips) if not clip.video}
    stale = [f"{title} ({first[title]})" for title in sorted(first) if not _is_fresh(catalogue, title, tables)]
    if stale:
        raise BadInput(
            f"these titles' {', '.join(tables)} are missing or out of date; materialise them first: "
            f"{', '.join(stale[:20])}{', …' if len(stale) > 20 else ''}"
        )


def _is_fresh(catalogue: Catalogue, title_id: str, tables: Sequence[str]) -> bool:
    return all(catalogue.is_fresh(table, title_id) for table in tables)


def film_of(clip: CaptionedClip) -> tuple[str, str]:
    """What the clip is a part of: a video beside the pairs files, or a title; the other is empty."""
    return clip.video or "", clip.title_id


def name_of(clip: CaptionedClip) -> str:
    return clip.video or clip.title_id


def series_of(catalogue: Catalogue, clip: CaptionedClip) -> str | None:
    """The series that the clip's title belongs to, if any."""
    title = None if clip.video else catalogue.title(clip.title_id)
    return title["series_id"] if title else None


def seqclip_version(catalogue: Catalogue) -> str:
    """The version of a fine-tune: of its pairs by content, of the checkpoint that it begins with, of its settings."""
    from resources.encoders.weights import weights_identity

    landing: LandingZone = catalogue.resources["landing"]
    code, begins_with = catalogue.stages.recipe["seqclip"].code, weights_identity(catalogue.once(base_folder))
    parts = [code, begins_with, json.dumps(asdict(catalogue.once(settings)), sort_keys=True)]
    _source, clips = catalogue.once(captioned_clips)
    for (video, title_id), of_film in groupby(clips, key=film_of):
        its_clips = list(of_film)
        pictures = landing.video_sha256(its_clips[0]) if video else catalogue.stored("shot_frames", title_id)
        parts.append(json.dumps([video, title_id, pictures, series_of(catalogue, its_clips[0])]))
        parts += [json.dumps([clip.caption, clip.start_s, clip.end_s]) for clip in its_clips]
    return digest(*parts)


def checkpoints(catalogue: Catalogue) -> dict[tuple[str, ...], str]:
    """The fine-tunes that there are: a folder for each version."""
    folder = Path(catalogue.resources["seqclip_config"].folder)
    return {(path.name,): path.name for path in folder.glob("*")}


def seqclip(run: CatalogueRun) -> Iterator[Any]:
    """Fine-tune the checkpoint on the laid-out pairs, in the folder of its version."""
    from model.seqclip import write_pairs

    catalogue, job = run.catalogue, run.resources.training
    base, tuning = catalogue.once(base_folder), catalogue.once(settings)
    source, clips = catalogue.once(captioned_clips)
    run.context.log.info(f"seqclip: {len(clips)} captions from {source}")
    Path(job.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pairs-", dir=job.folder) as folder:
        framed = pairs_with_frames(catalogue, run.lake, run.landing, clips, tuning.frames)
        out = Path(run.resources.seqclip_config.folder) / run.version
        job.fine_tune(run.context, write_pairs(Path(folder), framed), base, out, asdict(tuning))
    yield from ()


def described(run: CatalogueRun) -> dict[str, Any]:
    """What the materialisation says of the fine-tune of this version."""
    config = run.resources.seqclip_config
    out = Path(config.folder) / run.version
    source, clips = run.catalogue.once(captioned_clips)
    return {
        "checkpoint": dg.MetadataValue.path(str(out)),
        "base": config.base,
        "pairs_from": source,
        **as_metadata(json.loads((out / "seqclip.json").read_text()), clips),
    }


def pairs_with_frames(
    catalogue: Catalogue, lake: DeltaLake, landing: LandingZone, clips: Sequence[CaptionedClip], frames: int
) -> Iterator[tuple[str, str | None, str, list[bytes]]]:
    """(title or video, series, caption, JPEGs) of each clip: at most `frames` pictures, evenly spaced.

    A title's frames are read once and a video is decoded once, if their clips come in a row. Raises BadInput, naming
    the line, for a video that cannot be decoded.
    """
    import numpy as np

    from model.seqclip import evenly
    from resources.shots import sample_frames

    for (video, title_id), of_film in groupby(clips, key=film_of):
        its_clips = list(of_film)
        name, series_id = name_of(its_clips[0]), series_of(catalogue, its_clips[0])
        if video:
            try:
                with landing.local_video(its_clips[0]) as film:
                    jpegs = [frame.jpeg for frame in sample_frames(film, frames)]
            except BadInput as error:
                raise BadInput(f"{its_clips[0].where}: {error}") from error
            for clip in its_clips:
                yield name, series_id, clip.caption, jpegs
            continue
        rows = lake.read("shot_frames", title_id=title_id).drop_nulls("jpeg").sort("time_s")
        for clip in its_clips:
            start, end = np.searchsorted(rows["time_s"].to_numpy(), (clip.start_s, clip.end_s)).tolist()
            chosen = [start + place for place in evenly(end - start, frames)]
            yield name, series_id, clip.caption, rows["jpeg"].gather(chosen).to_list()


def as_metadata(report: Mapping[str, Any], clips: Sequence[CaptionedClip]) -> dict[str, Any]:
    """What the materialisation says of a fine-tune: its report, as tables, and as numbers that Dagster plots."""
    measured = ("before", "after", "chance")
    recall = [["text to video, held-out titles", *measured], ["---"] * 4]
    recall += [[name, *(f"{report[when][name]:.3f}" for when in measured)] for name in report["after"]]
    loss = [["epoch", "loss"], ["---"] * 2]
    loss += [[str(epoch), f"{value:.4f}"] for epoch, value in enumerate(report["losses"], 1)]
    trained, held = report["training_pairs"], report["held_out_pairs"]
    return {
        "recall": dg.MarkdownMetadataValue(_table(recall)),
        **{f"{name}_{when}": report[when][name] for name in report["after"] for when in measured},
        "loss_per_epoch": dg.MarkdownMetadataValue(_table(loss)),
        "pairs": trained + held,
        "pairs_without_frames": len(clips) - trained - held,
        "held_out_pairs": held,
        "titles": len({film_of(clip) for clip in clips}),
        "held_out_titles": len(report["held_out_titles"]),
        "held_out": ", ".join(report["held_out_titles"][:50]),
    }


def _table(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


STAGES = (
    Stage(
        (Recipe("seqclip", ("shots", "shot_frames", "text_embeddings", "titles"), "seqclip_config"),),
        "model",
        seqclip,
        scope="catalogue",
        kinds=frozenset({"pytorch"}),
        version=seqclip_version,
        on_request=True,
        describe=described,
        stored=checkpoints,
        about="A CLIP checkpoint fine-tuned on this catalogue: name its folder in MEDIAFM_VIDEO_MODEL to embed with "
        "it.\n\nMade on demand only, from the landing zone's captioned clips (`pairs/*.jsonl`), or else from the "
        "catalogue's own shots and what is said in them. The metadata compares recall on held-out titles before and "
        "after.",
        uses=frozenset({"training"}),
        pool="gpu",
    ),
)
