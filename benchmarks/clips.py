"""Whether the comparison with other encoders of clips is sound: the free one against our own `video`, same clips.

    export MEDIAFM_CLIP_ENCODERS=mean_frames; mediafm materialize; python benchmarks/clips.py

Both are the same video encoder; one sees eight frames of the cut clip, the other the mean of the clip's shots. Their
scores should lie close together, with the difference resampled over titles. Besides, what cutting a film's labelled
clips takes against decoding it, in one run.
"""

import tempfile
import time
from pathlib import Path

import numpy as np

from mediafm_assets.defs.clips import vectors_of_clips
from mediafm_assets.defs.evaluation import SEED, clip_vectors
from mediafm_assets.defs.labels import clips_by_task, spans_of
from mediafm_assets.graph.versions import Catalogue
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages
from model.probes import BOOTSTRAP, TooFewLabels, held_out_score, resampled
from resources.media import read_frames
from resources.media.clips import cut_clips  # here, and not apart: its processor time is measured

FILMS = 3


def compare(catalogue: Catalogue) -> None:
    tasks, _ = clips_by_task(catalogue)
    spans = {clip for rows in tasks.values() for clip in spans_of(rows)}
    ours = clip_vectors(catalogue.lake, catalogue.encoder_version or "", spans)
    free = vectors_of_clips(catalogue, spans)["mean_frames"]
    cosines = [
        float(free[clip] @ ours[clip]["video"] / np.linalg.norm(free[clip]) / np.linalg.norm(ours[clip]["video"]))
        for clip in spans
        if not isinstance(free[clip], str)
    ]
    print(f"{len(cosines)} of {len(spans)} clips; cosine of the two vectors of a clip: median {np.median(cosines):.3f}")
    for task, rows in tasks.items():
        targets, titles = rows["target"].to_list(), rows["title_id"].to_list()
        try:
            video = held_out_score(task, [ours[clip]["video"] for clip in spans_of(rows)], targets, titles)
            frames = held_out_score(task, [np.asarray(free[clip]) for clip in spans_of(rows)], targets, titles)
        except TooFewLabels as error:
            print(f"{task}: {error}")
            continue
        everything = np.arange(len(rows))
        differences = [frames(some) - video(some) for some in resampled(np.asarray(titles), SEED, BOOTSTRAP)]
        low, high = np.percentile(differences, [2.5, 97.5])
        print(
            f"{task}: video {video(everything):.3f}, mean_frames {frames(everything):.3f}, "
            f"difference {frames(everything) - video(everything):+.3f} [{low:+.3f}, {high:+.3f}]"
        )


def cut(catalogue: Catalogue) -> None:
    labels = catalogue.lake.scan("clip_labels").select("title_id", "start_s", "end_s").unique().collect()
    decoded_s = cut_s = clips_s = 0.0
    for title in sorted(labels["title_id"].unique())[:FILMS]:
        spans = labels.filter(title_id=title).select("start_s", "end_s").rows()
        landing = catalogue.resources["landing"]
        drop = landing.drop(title)
        with landing.local(drop, drop.media) as film, tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            for _ in read_frames(film):
                pass
            decoded_s += time.process_time() - started
            started = time.process_time()
            for _ in cut_clips(film, spans, Path(folder)):
                pass
            cut_s += time.process_time() - started
            clips_s += sum(end - start for start, end in spans)
    print(
        f"{FILMS} films: decoding {decoded_s:.1f} s of processor, cutting {clips_s:.0f} s of clips {cut_s:.1f} s: "
        f"{cut_s / decoded_s:.1f} x, {cut_s / clips_s * 60:.1f} s a minute of clips"
    )


def main() -> None:
    configured = resources()
    catalogue = Catalogue(configured["lake"], configured, all_stages())
    compare(catalogue)
    cut(catalogue)


if __name__ == "__main__":
    main()
