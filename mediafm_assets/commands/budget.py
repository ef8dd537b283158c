"""What a call of `mediafm materialize` may spend: it stops before what would go beyond, not after."""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mediafm_assets.graph.planned import Plan, Total, in_words, price
from mediafm_assets.settings import ConfigurationError

TITLES_PER_RUN = 10
"""Of a call with a budget: after each run, what it really took is subtracted."""


def amount(text: str) -> float:
    """A budget as people write it. Raises argparse's error for what is no number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"it must be a number above 0, not {text!r}")
    return value


@dataclass
class Budget:
    """What may still be spent; None where there is no limit.

    left_out: what was not started, in a sentence.
    """

    usd: float | None = None
    seconds: float | None = None
    left_out: str = ""

    @property
    def limited(self) -> bool:
        return self.usd is not None or self.seconds is not None

    def admits(self, plan: Plan, total: Total) -> bool:
        """Whether so much of the plan may be started. Raises ConfigurationError when nobody can tell what it takes."""
        why = " ".join(plan.remarks)
        if self.seconds is not None and any(step.seconds is None and step.film_s is not None for step in plan.steps):
            raise ConfigurationError(f"--budget-hours cannot be kept. {why} Materialise one title without it first.")
        if self.usd is not None and total.dollars is None:
            raise ConfigurationError(f"--budget-usd cannot be kept. {why}")
        enough_time = self.seconds is None or total.seconds <= self.seconds
        return enough_time and (self.usd is None or (total.dollars or 0.0) <= self.usd)

    def first_of(self, plan: Plan, titles: Sequence[str]) -> list[str]:
        """As many titles, from the first on, as may be started."""
        by_title: Mapping[str, Total] = plan.by_title()
        admitted: list[str] = []
        for title in titles:
            some = {*admitted, title}
            if not self.admits(plan, Total.of(step for step in plan.steps if step.title_id in some)):
                self._leave_out(f"{title} and what comes after it", by_title[title])
                break
            admitted.append(title)
        return admitted

    def admits_stage(self, plan: Plan, name: str) -> bool:
        """Whether what is made once for all titles may be made."""
        if self.admits(plan, plan.total):
            return True
        self._leave_out(f"{name}, which is made once for all titles, and what follows from it", plan.total)
        return False

    def spend(self, usd: float, seconds: float) -> None:
        """Subtract what was really spent."""
        self.usd = None if self.usd is None else self.usd - usd
        self.seconds = None if self.seconds is None else self.seconds - seconds

    def _leave_out(self, what: str, total: Total) -> None:
        left = [f"{in_words(max(self.seconds, 0))}"] if self.seconds is not None else []
        left += [price(max(self.usd, 0))] if self.usd is not None else []
        needs = f"{in_words(total.seconds)} and {price(total.dollars)}"
        self.left_out = f"not started: {what}; the next one needs about {needs}, and {' and '.join(left)} are left"
