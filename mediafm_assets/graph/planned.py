"""The plan: all that is to be made with what it is expected to take, in figures and in words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mediafm_assets.graph.costs import film_seconds
from mediafm_assets.graph.forecast import Expected, History, expected_of_all, expected_of_titles, film_lengths
from mediafm_assets.graph.plan import work_ahead
from mediafm_assets.graph.stage import Stage
from mediafm_assets.graph.versions import Catalogue
from resources.machine import machine


@dataclass(frozen=True)
class Total:
    """What some steps take together.

    untimed: steps of which nobody can tell how long they take; they are not in seconds and gpu_seconds.
    unsized: steps of which nobody can tell how much they write; they are not in bytes.
    dollars: None where the price of some tokens is not known.
    exact:   whether the tokens are; else there are about so many.
    """

    titles: int
    steps: int
    seconds: float
    untimed: int
    gpu_seconds: float
    bytes: int
    unsized: int
    tokens: int
    dollars: float | None
    exact: bool

    @classmethod
    def of(cls, steps: Iterable[Expected]) -> "Total":
        some = list(steps)
        dollars = [step.dollars for step in some]
        return cls(
            titles=len({step.title_id for step in some} - {None}),
            steps=len(some),
            seconds=sum(step.seconds or 0.0 for step in some),
            untimed=sum(step.seconds is None for step in some),
            gpu_seconds=sum(step.gpu_seconds or 0.0 for step in some),
            bytes=round(sum(step.bytes or 0.0 for step in some)),
            unsized=sum(step.bytes is None for step in some),
            tokens=sum(step.tokens for step in some),
            dollars=None if None in dollars else sum(price or 0.0 for price in dollars),
            exact=all(step.exact for step in some),
        )

    def scaled(self, factor: float) -> "Total":
        """So many times as much."""
        if factor == 1:
            return self
        counts = ("titles", "steps", "untimed", "bytes", "unsized", "tokens")
        return Total(
            **{name: round(getattr(self, name) * factor) for name in counts},
            seconds=self.seconds * factor,
            gpu_seconds=self.gpu_seconds * factor,
            dollars=None if self.dollars is None else self.dollars * factor,
            exact=False,
        )

    def sentence(self) -> str:
        """For people: "24 titles, 264 steps: 3.2 min, 0 GPU hours, 45.1 MB, 0 tokens ($0.00)"."""
        parts = [
            in_words(self.seconds) + (f" and {self.untimed} steps of unknown length" if self.untimed else ""),
            f"{self.gpu_seconds / 3600:.3g} GPU hours",
            f"{self.bytes / 1e6:.3g} MB",
            f"{'' if self.exact else 'about '}{self.tokens:,} tokens ({price(self.dollars)})",
        ]
        return f"{self.titles} titles, {self.steps} steps: {', '.join(parts)}"


@dataclass(frozen=True)
class Plan:
    """What is to be made, in its order.

    tasks: whose labels are read again; that takes no time worth the name.
    """

    steps: Sequence[Expected]
    tasks: Sequence[str]
    remarks: Sequence[str]

    @cached_property
    def total(self) -> Total:
        return Total.of(self.steps)

    def by_stage(self) -> dict[str, Total]:
        found: dict[str, list[Expected]] = {}
        for step in self.steps:
            found.setdefault(step.stage, []).append(step)
        return {stage: Total.of(steps) for stage, steps in found.items()}

    def by_title(self) -> dict[str, Total]:
        found: dict[str, list[Expected]] = {}
        for step in self.steps:
            if step.title_id is not None:
                found.setdefault(step.title_id, []).append(step)
        return {title: Total.of(steps) for title, steps in found.items()}


def plan_now(catalogue: Catalogue, fingerprints: Mapping[str, str]) -> Plan:
    """What `mediafm materialize` would do now. fingerprints: of the drops in the landing zone."""
    catalogue.read_all_titles()
    ahead = work_ahead(catalogue, fingerprints)
    history = History(catalogue)
    everybody = {title for (title,) in catalogue.stored_in("titles")} | fingerprints.keys()
    lengths = film_lengths(catalogue, fingerprints, sorted(everybody) if ahead.whole else ahead.titles)
    all_films_s = sum(length or 0.0 for length in lengths.values())
    steps = [
        *expected_of_titles(catalogue, history, ahead.titles, lengths),
        *expected_of_all(catalogue, history, ahead.whole, all_films_s),
    ]
    stages = dict.fromkeys(catalogue.stages.by_table[step.stage] for step in steps)
    return Plan(steps, [todo.task for todo in ahead.tasks], list(remarks(history, list(stages), steps)))


def plan_of(catalogue: Catalogue, fingerprints: Mapping[str, str], titles: Mapping[str, Sequence[Stage]]) -> Plan:
    """What these stages of these titles take."""
    history = History(catalogue)
    lengths = film_lengths(catalogue, fingerprints, titles)
    steps = list(expected_of_titles(catalogue, history, titles, lengths))
    stages = dict.fromkeys(stage for some in titles.values() for stage in some)
    return Plan(steps, [], list(remarks(history, list(stages), steps)))


def plan_of_all(catalogue: Catalogue, stage: Stage) -> Plan:
    """What it takes to make something once for all titles."""
    history = History(catalogue)
    steps = expected_of_all(catalogue, history, [stage], film_seconds(catalogue, None) or 0.0)
    return Plan(steps, [], list(remarks(history, [stage], steps)))


def remarks(history: History, stages: Sequence[Stage], steps: Sequence[Expected]) -> Iterable[str]:
    """What one has to know of the figures, in sentences."""
    unknown = [stage.name for stage in stages if history.rate(stage).seconds is None]
    if stages and len(unknown) == len(stages):
        others = f"; the books are of {' and of '.join(history.elsewhere)}" if history.elsewhere else ""
        yield f"Seconds are not known: `costs` has no history of this machine ({machine()}) yet{others}."
    elif unknown:
        yield f"Seconds are not known of {', '.join(unknown)}: `costs` has no history of them on this machine."
    other = [stage.name for stage in stages if stage.name not in unknown and not history.rate(stage).as_configured]
    if other:
        yield f"Seconds of {', '.join(other)} are those of another configuration or code version."
    if lengths_unknown := {step.title_id for step in steps if step.film_s is None}:
        yield f"The length of {len(lengths_unknown)} films is not known, nor what they take."
    if any(not step.exact for step in steps):
        yield (
            "Tokens are about right, not exact: the shots that share out the words are not known yet, or tiktoken and "
            "its vocabulary are not at hand and bytes were counted, of which there are more."
        )
    if any(step.dollars is None for step in steps):
        yield "Dollars are not known: there is no list price of this model."


def in_words(seconds: float) -> str:
    """ "40 s", "3.2 min" or "5.1 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def price(dollars: float | None) -> str:
    return "price not known" if dollars is None else f"${dollars:.4f}" if 0 < dollars < 1 else f"${dollars:,.2f}"
