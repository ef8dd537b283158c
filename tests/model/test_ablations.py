"""Ablations: variants differ in one thing, are measured alike, and are compared title by title."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.ablations import (
    MASKED_SHOTS,
    EmbeddedTitle,
    LabelledClips,
    Measured,
    Setup,
    Study,
    Variant,
    compared,
    measure,
    set_aside,
    variants,
)
from model.config import Config
from model.fusion import fuse
from model.probes import BOOTSTRAP, pool, probe
from model.store import Entry, Store

SMALL = dataclasses.replace(
    Config.embedded(),
    modalities=(("video", 8), ("audio", 6), ("text", 4)),
    layers=1,
    hidden=32,
    heads=2,
    global_dim=5,
    warmup_steps=1,
    batch_sequences=4,
)
PRESET = Setup(SMALL, SMALL.modalities, "balanced")
STEPS = 2


def title(number: int, shots: int = 8, absent: str = "") -> EmbeddedTitle:
    """A title of shots of a second each; all of it says whether the number is odd."""
    rng = np.random.default_rng(number)
    embeddings = {
        name: (rng.normal(size=(shots, width)) + number % 2, np.full(shots, name != absent))
        for name, width in SMALL.modalities
    }
    start = np.arange(shots, dtype=np.float64)
    return EmbeddedTitle(f"t{number}", None, start, start + 1, embeddings, rng.normal(size=5).astype(np.float32))


def clips_of(titles: list[EmbeddedTitle]) -> LabelledClips:
    """A clip of every shot."""
    spans = [(t.title_id, float(start), float(start) + 1) for t in titles for start in t.start_s]
    return LabelledClips(spans, [int(name[1:]) % 2 for name, _, _ in spans])


def study(titles: list[EmbeddedTitle]) -> Study:
    return Study(titles, {"clip_retrieval": clips_of(titles), "clip_tone": LabelledClips([], [])}, PRESET, STEPS)


@pytest.fixture(scope="module")
def catalogue() -> Study:
    return study([title(number) for number in range(16)])


# ---- variants --------------------------------------------------------------------------------------------------------


def differing(one: Setup, other: Setup) -> set[str]:
    """The fields in which two setups differ, those of their configurations by name."""
    apart = {f.name for f in dataclasses.fields(Setup) if getattr(one, f.name) != getattr(other, f.name)} - {"config"}
    return apart | {
        f.name for f in dataclasses.fields(Config) if getattr(one.config, f.name) != getattr(other.config, f.name)
    }


@pytest.mark.parametrize("preset", [Config.embedded(), Config.reference(), dataclasses.replace(SMALL, mask_ratio=0.3)])
@pytest.mark.parametrize("fusion", ["balanced", "as_published"])
def test_a_variant_differs_in_one_field_from_the_one_that_it_is_compared_with(preset: Config, fusion: Any) -> None:
    found = variants(preset, fusion)
    references = {variant.ablation: variant for variant in found if variant.against is None}
    for variant in found:
        reference = references[variant.ablation]
        if variant is reference:
            continue
        assert variant.against == reference.name
        apart = differing(variant.setup, reference.setup)
        if variant.ablation == "window":  # windows cannot lie further apart than they are long
            apart -= {"stride"}
        assert len(apart) == 1, variant
    joined = Setup(preset, preset.modalities, fusion, read="concatenated")
    whole = dataclasses.replace(joined, read="in_context")
    assert {ablation: variant.setup for ablation, variant in references.items()} == {
        ablation: joined if ablation == "modalities" else whole for ablation in references
    }


def test_every_modality_alone_each_pair_and_all_are_among_them() -> None:
    names = [variant.name for variant in variants(SMALL, "balanced") if variant.ablation == "modalities"]
    assert names == ["video", "audio", "text", "video+audio", "video+text", "audio+text", "video+audio+text"]


def test_everything_that_the_publication_and_the_issue_ask_for_is_varied() -> None:
    by_ablation: dict[str, set[str]] = {}
    for variant in variants(Config.embedded(), "balanced"):
        by_ablation.setdefault(variant.ablation, set()).add(variant.name)
    assert {name: by_ablation[name] for name in by_ablation.keys() - {"modalities", "modalities_in_context"}} == {
        "context": {"concatenated", "clip_alone", "in_context"},
        "title_token": {"with", "without"},
        "fusion": {"balanced", "as_published"},
        "mask_ratio": {"0.1", "0.2", "0.4"},
        "optimizer": {"muon", "adamw"},
        "depth": {"1", "2", "4", "8"},
        "window": {"4", "16", "512"},
    }


# ---- measuring -------------------------------------------------------------------------------------------------------


def folder_in(path: Path, name: str) -> Path:
    (path / name).mkdir()
    return path / name


def test_the_same_seed_gives_the_same_scores_and_another_one_others(catalogue: Study, tmp_path: Path) -> None:
    first, again, other = (
        measure(catalogue, PRESET, ["in_context"], seed, folder_in(tmp_path, str(number)))["in_context"]
        for number, seed in enumerate((0, 0, 1))
    )
    assert first == again
    assert first["clip_retrieval"].drawn != other["clip_retrieval"].drawn
    assert first[MASKED_SHOTS].value is not None
    assert first[MASKED_SHOTS] != other[MASKED_SHOTS]


def test_scores_and_intervals_without_an_encoder_are_those_of_probe_metrics(catalogue: Study, tmp_path: Path) -> None:
    setup = dataclasses.replace(PRESET, read="concatenated")
    found = measure(catalogue, setup, ["concatenated"], None, tmp_path)["concatenated"]["clip_retrieval"]
    shots = {t.title_id: fuse(t.embeddings, "balanced", SMALL.modalities) for t in catalogue.titles}
    start = np.arange(8.0)
    clips = catalogue.tasks["clip_retrieval"]
    features = [pool(start, start + 1, shots[name], *span) for name, *span in clips.spans]
    expected = probe("clip_retrieval", features, clips.targets, clips.titles)
    assert found.value == expected.value
    assert np.percentile(found.drawn, [2.5, 97.5]).tolist() == [expected.ci_low, expected.ci_high]


def test_every_encoder_is_trained_for_the_same_steps_on_titles_that_are_not_set_aside(
    catalogue: Study, tmp_path: Path
) -> None:
    for setup in (PRESET, dataclasses.replace(PRESET, config=dataclasses.replace(SMALL, optimizer="adamw"))):
        folder = folder_in(tmp_path, setup.config.optimizer)
        found = measure(catalogue, setup, ["in_context"], 0, folder)["in_context"]
        metrics = json.loads((folder / "run" / "metrics.json").read_text())
        assert metrics["steps"] == metrics["step"] == STEPS
        assert metrics["validation"] is None
        known, aside = set_aside(Store.open(folder / "all").entries, seed=0)
        assert [e.title_id for e in Store.open(folder / "known").entries] == [e.title_id for e in known]
        assert found[MASKED_SHOTS].n_titles == len(aside) == 4


def test_each_seed_sets_a_quarter_aside_and_never_divides_a_series() -> None:
    titles = [Entry(f"t{number}", f"s{number // 3}" if number < 12 else None, "", 8, "", 0, 0) for number in range(28)]
    sides = [set_aside(titles, seed) for seed in range(20)]
    assert len({tuple(entry.title_id for entry in aside) for _, aside in sides}) == 20
    for known, aside in sides:
        assert not {e.series_id for e in known if e.series_id} & {e.series_id for e in aside}
        assert len({e.series_id or e.title_id for e in aside}) == 5
        assert len(known) + len(aside) == 28


def test_a_task_without_labels_is_left_out_with_a_reason(catalogue: Study, tmp_path: Path) -> None:
    found = measure(catalogue, dataclasses.replace(PRESET, read="concatenated"), ["concatenated"], None, tmp_path)
    without = found["concatenated"]["clip_tone"]
    assert without.value is None
    assert "too few labels: 0 clips of 0 titles" in (without.note or "")


@pytest.mark.parametrize("seed", [None, 0])
def test_a_modality_that_no_title_has_is_left_out_with_a_reason(tmp_path: Path, seed: int | None) -> None:
    mute = study([title(number, absent="text") for number in range(8)])
    reading: Any = "concatenated" if seed is None else "in_context"
    setup = dataclasses.replace(PRESET, modalities=(("text", 4),), read=reading)
    found = measure(mute, setup, [reading], seed, tmp_path)[reading]
    assert {measured.note for measured in found.values()} == {"no shot has any text"}


def test_skill_is_left_out_where_other_vectors_are_foretold_and_where_too_few_titles_are_set_aside(
    catalogue: Study, tmp_path: Path
) -> None:
    raw = dataclasses.replace(PRESET, fusion="as_published")
    found = measure(catalogue, raw, ["in_context"], 0, folder_in(tmp_path, "raw"))["in_context"]
    assert "it foretells other vectors" in (found[MASKED_SHOTS].note or "")
    assert found["clip_retrieval"].value is not None
    few = study([title(number) for number in range(5)])
    found = measure(few, PRESET, ["in_context"], 0, folder_in(tmp_path, "few"))["in_context"]
    assert "4 are needed" in (found[MASKED_SHOTS].note or "")


def test_without_its_token_an_encoder_never_sees_the_title(catalogue: Study, tmp_path: Path) -> None:
    setup = dataclasses.replace(PRESET, title=False)
    renamed = dataclasses.replace(catalogue, titles=[dataclasses.replace(t, about=-t.about) for t in catalogue.titles])
    one, other = (
        measure(of, setup, ["in_context"], 0, folder_in(tmp_path, str(number)))
        for number, of in enumerate((catalogue, renamed))
    )
    assert one == other


# ---- comparing -------------------------------------------------------------------------------------------------------


def scored(value: float, seed: int, spread: float = 0.1) -> Mapping[str, Measured]:
    drawn = value + spread * np.random.default_rng(seed).normal(size=BOOTSTRAP)
    return {"clip_retrieval": Measured(value, drawn.tolist(), 16)}


def rows_of(catalogue: Study, scores: Mapping[str, Any]) -> dict[tuple[str, int | None], dict[str, Any]]:
    """Of an ablation of variants that are compared with the first, their rows by variant and seed."""
    first, *_ = scores
    made = [
        Variant(
            "trial",
            name,
            dataclasses.replace(PRESET, config=dataclasses.replace(SMALL, layers=1 + number)),
            None if name == first else first,
        )
        for number, name in enumerate(scores)
    ]
    rows = compared(catalogue, made, {variant.setup: scores[variant.name] for variant in made})
    return {(row["variant"], row["seed"]): row for row in rows}


def test_differences_are_paired_so_that_a_small_one_is_told_where_scores_vary_more(catalogue: Study) -> None:
    rows = rows_of(catalogue, {"a": {s: scored(0.5, s) for s in (0, 1)}, "b": {s: scored(0.52, s) for s in (0, 1)}})
    b = rows["b", None]
    assert b["value"] == pytest.approx(0.52)
    assert b["ci_high"] - b["ci_low"] > 0.2
    assert [b["difference"], b["difference_low"], b["difference_high"]] == pytest.approx([0.02] * 3)
    assert "difference" not in rows["a", None]
    assert rows["b", 1]["difference"] == pytest.approx(0.02)


def test_an_interval_is_as_wide_as_seeds_differ(catalogue: Study) -> None:
    of_seeds = {0: scored(0.4, 0, spread=0), 1: scored(0.6, 1, spread=0)}
    row = rows_of(catalogue, {"a": of_seeds})["a", None]
    assert [row["value"], row["ci_low"], row["ci_high"]] == pytest.approx([0.5, 0.4, 0.6])


def test_what_is_not_trained_is_compared_with_every_seed(catalogue: Study) -> None:
    rows = rows_of(catalogue, {"a": {0: scored(0.4, 0), 1: scored(0.6, 1)}, "joined": {None: scored(0.3, 2)}})
    assert rows.keys() == {("a", None), ("a", 0), ("a", 1), ("joined", None)}
    assert rows["joined", None]["difference"] == pytest.approx(-0.2)
    assert rows["joined", None]["steps"] is None
    assert rows["a", 0]["steps"] == STEPS


def test_a_seed_without_a_score_takes_none_from_the_others(catalogue: Study) -> None:
    nothing = {"clip_retrieval": Measured(None, (), 2, "2 titles are set aside")}
    rows = rows_of(catalogue, {"a": {0: scored(0.4, 0), 1: nothing}, "b": {0: scored(0.5, 0), 1: nothing}})
    assert rows["b", None]["difference"] == pytest.approx(0.1)
    assert rows["b", 1]["note"] == "2 titles are set aside"
    assert "value" not in rows["b", 1]
