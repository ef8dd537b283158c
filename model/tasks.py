"""The tasks that frozen embeddings are judged by, declared once: what a label says, how it is predicted and scored.

A leaf without imports of this project, which all packages may read (tests/mediafm_assets/test_layers.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

GENRES = (
    "Action", "Anime", "Comedy", "Documentary", "Drama", "Fantasy", "Horror", "Kids", "Romance", "Sci-fi", "Thriller",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A task with labelled clips.

    name:            the label file's stem, and the partition of `clip_labels`.
    label:           the column of its label file and of `clip_labels` that is predicted: `labels` (a list of strings;
                     a logistic regression for each), `label` (0 or 1; a logistic regression) or `score` (a number; a
                     ridge regression).
    metric:          "micro AP", "macro AP", "AP", or "Kendall's tau" within each title, averaged over titles.
    labels:          those that are predicted, where they are fixed; else all that the clips have.
    folds:           of the cross-validation, grouped by title.
    of_titles:       column of `titles` that a clip without labels of its own gets them from, if any; without a label
                     file, the task then takes the clips of the others.
    """

    name: str
    label: Literal["labels", "label", "score"]
    metric: Literal["micro AP", "macro AP", "AP", "Kendall's tau"]
    labels: tuple[str, ...] | None = None
    folds: int = 5
    of_titles: str | None = None


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("ad_relevancy", "labels", "micro AP"),
        Task("clip_popularity", "score", "Kendall's tau", folds=10),
        Task("clip_tone", "labels", "micro AP"),
        Task("clip_genre", "labels", "macro AP", labels=GENRES, of_titles="genres"),
        Task("clip_retrieval", "label", "AP"),
    )
}
"""Those that clips are probed on."""

SCENES = "scenes"
"""The task whose labels are a title's scenes: at which shots one begins."""

LABELLED = (*TASKS, SCENES)
"""The tasks that have label files: each a file's stem, and a partition of `clip_labels`."""
