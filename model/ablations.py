"""Ablations: what each part of the recipe is worth, by changing it and nothing else.

A variant differs in one thing from the one that it is compared with. An encoder is trained for each, from the start,
with each seed, for the same number of steps, on the titles that its seed does not set aside; its last weights are
taken, so that nothing is chosen on any title. Then it is scored: by the probes of `model.probes`, on the same clips,
folds and bootstrap samples for all, and, where it foretells the same shots, by the skill over the best predictor
without a model (`model.metrics`) at masked shots of the titles set aside.

Intervals are percentiles of bootstrap samples of titles and, where several seeds were trained, of seeds as well. Those
of differences are paired: both variants are scored on the same samples.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.batches import Batch, predictable, windows_of
from model.config import Config
from model.encoder import Encoder
from model.fusion import Embeddings, Fusion, fuse
from model.inference import load, read_out_many
from model.metrics import MINIMUM_TITLES, Cosines, Validation, skill
from model.modalities import Widths
from model.objective import MaskedShotModelling
from model.probes import BOOTSTRAP, Score, TooFewLabels, held_out_score, pool, resampled, shots_of
from model.splits import group_of
from model.store import Entry, Store, StoredTitle
from model.tasks import TASKS
from model.train import Run, fitted_smoother

MASK_RATIOS = (0.1, 0.2, 0.4)
WINDOWS = (4, 16)
"""Lengths in shots; the windows over longer titles lie half of that apart, as the published 512 and 256."""
ASIDE = 0.25
"""Share of the titles, by series, that an encoder is not trained on."""
MOST_WINDOWS = 512
MASKED_SHOTS = "masked_shots"
SKILL = "skill over the best predictor without a model"

Reading = Literal["concatenated", "clip_alone", "in_context"]
"""What a clip's vector is the mean of: its shots' fused vectors; or what readers are given of contextual ones, with
only the clip's shots before the encoder or with the whole title."""
Span = tuple[str, float, float]
"""title id, start and end in seconds"""


@dataclass(frozen=True)
class Setup:
    """How vectors are joined, how an encoder is trained on them, and how it is read.

    title: whether [GLOBAL] tells of the title; else its embedding is zeros, in training as in reading.
    """

    config: Config
    modalities: Widths
    fusion: Fusion
    title: bool = True
    read: Reading = "in_context"


class Variant(NamedTuple):
    """A value of what is varied. against: the variant that it is compared with; None of that one itself."""

    ablation: str
    name: str
    setup: Setup
    against: str | None


def variants(preset: Config, fusion: Fusion) -> list[Variant]:
    """All variants, those of one ablation in a row. Each differs in one thing from its ablation's reference, which is
    the preset, or, of `modalities`, the concatenation of all three."""
    whole = Setup(preset, preset.modalities, fusion)
    joined = replace(whole, read="concatenated")
    sizes = range(1, len(preset.modalities) + 1)
    subsets = [subset for size in sizes for subset in combinations(preset.modalities, size)]
    readings: tuple[Reading, ...] = ("concatenated", "clip_alone", "in_context")
    fusions: tuple[Fusion, ...] = ("balanced", "as_published")
    windows = {n: replace(preset, max_shots=n, stride=max(1, n // 2)) for n in WINDOWS}
    return [
        *_compared("modalities", joined, {_named(some): replace(joined, modalities=some) for some in subsets}),
        *_compared("modalities_in_context", whole, {_named(some): replace(whole, modalities=some) for some in subsets}),
        *_compared("context", whole, {reading: replace(whole, read=reading) for reading in readings}),
        *_compared("title_token", whole, {"with": whole, "without": replace(whole, title=False)}),
        *_compared("fusion", whole, {kind: replace(whole, fusion=kind) for kind in fusions}),
        *_of_field("mask_ratio", "mask_ratio", MASK_RATIOS, whole),
        *_of_field("optimizer", "optimizer", ("muon", "adamw"), whole),
        *_of_field("depth", "layers", (1, max(1, preset.layers // 2), 2 * preset.layers), whole),
        *_compared(
            "window",
            whole,
            {str(n): replace(whole, config=c) for n, c in (windows | {preset.max_shots: preset}).items()},
        ),
    ]


def _named(modalities: Widths) -> str:
    return "+".join(name for name, _ in modalities)


def _of_field(ablation: str, field: str, values: Iterable[Any], whole: Setup) -> list[Variant]:
    """Other values of one field of the configuration, in order, with the preset's own among them."""
    known = sorted({*values, getattr(whole.config, field)})
    setups = {str(value): replace(whole, config=replace(whole.config, **{field: value})) for value in known}
    return _compared(ablation, whole, setups)


def _compared(ablation: str, reference: Setup, setups: Mapping[str, Setup]) -> list[Variant]:
    of_reference = next(name for name, setup in setups.items() if setup == reference)
    return [
        Variant(ablation, name, setup, None if setup == reference else of_reference) for name, setup in setups.items()
    ]


# ---- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EmbeddedTitle:
    """A title before its modalities are joined. start_s, end_s: (n,) of its shots, seconds. about: (g,), its metadata's
    embedding."""

    title_id: str
    series_id: str | None
    start_s: NDArray[np.floating]
    end_s: NDArray[np.floating]
    embeddings: Embeddings
    about: NDArray[np.floating]


class LabelledClips(NamedTuple):
    """A task's clips and what is to be predicted of each, as `model.probes.probe` takes it."""

    spans: Sequence[Span]
    targets: Sequence[Any]

    @property
    def titles(self) -> list[str]:
        return [title for title, _, _ in self.spans]


@dataclass(frozen=True)
class Study:
    """What all variants are measured on. steps: that each encoder is trained for."""

    titles: Sequence[EmbeddedTitle]
    tasks: Mapping[str, LabelledClips]
    preset: Setup
    steps: int


class Measured(NamedTuple):
    """A score, and what it is on each bootstrap sample of titles; or a note that says why there is none."""

    value: float | None
    drawn: Sequence[float]
    n_titles: int
    note: str | None = None


class NothingToLearn(ValueError):
    """The variant cannot be made of these titles; the message says why."""


def measure(
    study: Study, setup: Setup, readings: Iterable[Reading], seed: int | None, folder: Path
) -> dict[Reading, dict[str, Measured]]:
    """The scores of a setup by task, read in one or several ways. Equal arguments give equal scores.

    seed: of the training; None where nothing is trained. folder: an empty one, for the training's files.
    """
    try:
        shots = _fused(study, setup)
        about = {title.title_id: title.about if setup.title else np.zeros_like(title.about) for title in study.titles}
        if seed is None:
            return {"concatenated": _probed(study, _clip_vectors(study, shots, about, "concatenated", None))}
        store = Store.update(folder / "all", _stored(study, shots, about), modalities=setup.modalities)
        known, aside = set_aside(store.entries, seed)
        encoder = _trained(study, setup, store, known, seed, folder)
    except NothingToLearn as error:
        return {reading: _without(study, reading, str(error)) for reading in readings}
    of_shots = {MASKED_SHOTS: _foretold(study, setup, store, encoder, known, aside, seed)}
    found = {}
    for reading in readings:
        scores = _probed(study, _clip_vectors(study, shots, about, reading, encoder))
        found[reading] = scores | (of_shots if reading == "in_context" else {})
    return found


def _without(study: Study, reading: Reading, note: str) -> dict[str, Measured]:
    tasks = {task: len(set(clips.titles)) for task, clips in study.tasks.items()}
    tasks |= {MASKED_SHOTS: 0} if reading == "in_context" else {}
    return {task: Measured(None, (), n_titles, note) for task, n_titles in tasks.items()}


def _fused(study: Study, setup: Setup) -> dict[str, NDArray[np.float32]]:
    """Each title's shots, (n, D)."""
    made = {}
    for title in study.titles:
        chosen = {name: title.embeddings[name] for name, _ in setup.modalities}
        made[title.title_id] = fuse(chosen, setup.fusion, setup.modalities)
    if not any(shots.any() for shots in made.values()):
        raise NothingToLearn(f"no shot has any {' or '.join(name for name, _ in setup.modalities)}")
    return made


def _stored(
    study: Study, shots: Mapping[str, NDArray[np.floating]], about: Mapping[str, NDArray[np.floating]]
) -> Iterator[StoredTitle]:
    for title in study.titles:
        name = title.title_id
        yield StoredTitle(name, title.series_id, "", "", shots[name], about[name])


def _trained(study: Study, setup: Setup, store: Store, known: Sequence[Entry], seed: int, folder: Path) -> Encoder:
    """An encoder trained on the known titles for the study's steps, whose last weights are taken."""
    try:
        config = replace(
            setup.config,
            modalities=setup.modalities,
            seed=seed,
            fixed_steps=study.steps,
            minimum_groups=len(known) + 2,  # which nothing reaches: no step is chosen on titles held out
        )
        of_known = Store.update(folder / "known", titles_of(store, known), modalities=setup.modalities)
        run = Run(config, of_known, folder / "run", say=lambda _: None)
    except ValueError as error:
        raise NothingToLearn(str(error)) from error
    run.fit()
    run.finish()
    return load(run.folder.export)


def set_aside(titles: Sequence[Entry], seed: int) -> tuple[list[Entry], list[Entry]]:
    """The titles to train on, and the others: a share `ASIDE` of the works, never a series on both sides. Of a small
    catalogue `model.splits` would leave out that share on average only, at times hardly any."""
    works = sorted({group_of(title.title_id, title.series_id) for title in titles})
    chosen = np.random.default_rng(seed).permutation(len(works))[: max(1, round(ASIDE * len(works)))]
    aside = {works[number] for number in chosen}
    sides = [group_of(title.title_id, title.series_id) in aside for title in titles]
    return (
        [title for title, out in zip(titles, sides, strict=True) if not out],
        [title for title, out in zip(titles, sides, strict=True) if out],
    )


def titles_of(store: Store, entries: Iterable[Entry]) -> Iterator[StoredTitle]:
    """Titles of a store on their way into another one."""
    for entry in entries:
        vectors = store.read(entry, 0, entry.shots)
        about = store.global_embedding(entry)
        yield StoredTitle(entry.title_id, entry.series_id, entry.version, store.space, vectors, about)


def unseen(store: Store, trained: Iterable[Entry], aside: Iterable[Entry], config: Config) -> Validation:
    """A validation on titles that decided nothing. trained: those that the baselines are fitted on."""
    training, windows = (predictable(store, windows_of(side, config), config) for side in (trained, aside))
    return Validation(store, training, windows, config, fitted_smoother(store, training, config), MOST_WINDOWS)


def predictor(encoder: Encoder) -> Callable[[Batch], Tensor]:
    """What an encoder foretells of a batch's masked shots, (m, D), in float32."""
    objective = MaskedShotModelling(encoder, torch.float32)

    def predict(batch: Batch) -> Tensor:
        with torch.no_grad():
            return objective.predict(batch.to(encoder.cls.device))[0]

    return predict


def _foretold(
    study: Study,
    setup: Setup,
    store: Store,
    encoder: Encoder,
    known: Sequence[Entry],
    aside: Sequence[Entry],
    seed: int,
) -> Measured:
    """The skill at masked shots of the titles set aside, under the preset's masks whatever the setup's own are."""
    preset = study.preset
    if (setup.modalities, setup.fusion, setup.config.max_shots) != (
        preset.modalities,
        preset.fusion,
        preset.config.max_shots,
    ):
        return Measured(None, (), len(aside), "it foretells other vectors, or in other windows, than the preset")
    if len(aside) < MINIMUM_TITLES:
        return Measured(
            None, (), len(aside), f"too few titles are set aside: {len(aside)}, and {MINIMUM_TITLES} are needed"
        )
    validation = unseen(store, known, aside, replace(preset.config, seed=seed))
    cosines = validation.foretold(predictor(encoder)).cosines
    score = _skill_of(cosines, validation.baseline_cosines[validation.best_baseline])
    return _measured(score, list(validation.titles))


def _skill_of(encoder: Cosines, baseline: Cosines) -> Score:
    """The skill over a choice of titles, all their masked shots together."""
    total, trivial, count = encoder.sums[:, 0], baseline.sums[:, 0], encoder.counts[:, 0]

    def score(titles: NDArray[np.int64]) -> float:
        shots = count[titles].sum()
        return float(skill(float(total[titles].sum() / shots), float(trivial[titles].sum() / shots)))

    return score


def _measured(score: Score, titles: Sequence[str]) -> Measured:
    """titles: of each row that the score may choose."""
    groups = np.asarray(titles)
    drawn = [score(rows) for rows in resampled(groups, 0, BOOTSTRAP)]
    return Measured(score(np.arange(len(groups))), drawn, len(set(titles)))


def _probed(study: Study, vectors: Mapping[Span, NDArray[np.floating]]) -> dict[str, Measured]:
    found = {}
    for task, clips in study.tasks.items():
        features = [vectors[span] for span in clips.spans]
        try:
            score = held_out_score(task, features, clips.targets, clips.titles)
        except TooFewLabels as error:
            found[task] = Measured(None, (), len(set(clips.titles)), str(error))
            continue
        found[task] = _measured(score, clips.titles)
    return found


def _clip_vectors(
    study: Study,
    shots: Mapping[str, NDArray[np.floating]],
    about: Mapping[str, NDArray[np.floating]],
    reading: Reading,
    encoder: Encoder | None,
) -> dict[Span, NDArray[np.floating]]:
    """Each labelled clip's vector: the mean over its shots."""
    titles = {title.title_id: title for title in study.titles}
    spans = sorted({span for clips in study.tasks.values() for span in clips.spans})
    of_shots = shots
    if encoder is not None:
        if reading == "clip_alone":
            its_shots = (
                (shots[name][shots_of(titles[name].start_s, titles[name].end_s, start, end)], about[name])
                for name, start, end in spans
            )
            read = read_out_many(encoder, its_shots)
            return {span: of_clip.mean(axis=0) for span, of_clip in zip(spans, read, strict=True)}
        names = sorted({name for name, _, _ in spans})
        whole = read_out_many(encoder, ((shots[name], about[name]) for name in names))
        of_shots = dict(zip(names, whole, strict=True))
    return {
        (name, start, end): pool(titles[name].start_s, titles[name].end_s, of_shots[name], start, end)
        for name, start, end in spans
    }


# ---- comparing -------------------------------------------------------------------------------------------------------

Scores = Mapping[int | None, Mapping[str, Measured]]
"""What a setup scores, by seed (None: nothing was trained) and task."""


def compared(study: Study, of_variants: Sequence[Variant], scores: Mapping[Setup, Scores]) -> Iterator[dict[str, Any]]:
    """The rows of the table `ablations`: of each variant and task one of all seeds together, and one of each seed."""
    by_name = {(variant.ablation, variant.name): variant.setup for variant in of_variants}
    for variant in of_variants:
        mine = scores[variant.setup]
        other = scores[by_name[variant.ablation, variant.against]] if variant.against is not None else None
        steps = None if None in mine else study.steps
        about = {"ablation": variant.ablation, "variant": variant.name, "against": variant.against, "steps": steps}
        for task in next(iter(mine.values())):
            clips = study.tasks.get(task)
            known = {"metric": TASKS[task].metric, "n_clips": len(clips.spans)} if clips else {"metric": SKILL}
            for seed in [None, *(seed for seed in mine if seed is not None)]:
                of_seeds: Scores = mine if seed is None else {seed: mine[seed]}
                yield {**about, "task": task, "seed": seed, **known, **_outcome(task, of_seeds, other)}


def _outcome(task: str, mine: Scores, other: Scores | None) -> dict[str, Any]:
    """The mean score of the seeds that have one, its difference to the other variant's with the same seeds, and their
    intervals."""
    known = {seed: by_task[task] for seed, by_task in mine.items() if by_task[task].value is not None}
    if not known:
        without = next(iter(mine.values()))[task]
        return {"n_titles": without.n_titles, "note": without.note}
    value, low, high = _mean(list(known.values()))
    found = {
        "value": value,
        "ci_low": low,
        "ci_high": high,
        "n_titles": min(measured.n_titles for measured in known.values()),
    }
    pairs = [
        _less(measured, theirs)
        for seed, measured in known.items()
        for other_seed, by_task in (other or {}).items()
        if seed == other_seed or None in (seed, other_seed)
        for theirs in [by_task.get(task)]
        if theirs is not None and theirs.value is not None
    ]
    if pairs:
        found |= dict(zip(("difference", "difference_low", "difference_high"), _mean(pairs), strict=True))
    return found


def _less(one: Measured, other: Measured) -> Measured:
    assert one.value is not None
    assert other.value is not None
    return Measured(one.value - other.value, np.subtract(one.drawn, other.drawn).tolist(), one.n_titles)


def _mean(of_seeds: Sequence[Measured]) -> tuple[float, float, float]:
    """The mean over seeds with its interval: each sample of titles is met with a sample of seeds."""
    drawn = np.array([measured.drawn for measured in of_seeds])  # (seeds, samples)
    seeds, samples = drawn.shape
    chosen = np.random.default_rng(0).integers(seeds, size=(seeds, samples))
    low, high = np.nanpercentile(drawn[chosen, np.arange(samples)].mean(axis=0), [2.5, 97.5])
    return float(np.mean([measured.value for measured in of_seeds])), float(low), float(high)
