"""What the UI shows of a materialisation: numbers as a person reads them."""

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

DIGITS = 4


def rounded(value: float) -> float:
    """To four significant digits; float32, which prints more digits than it has, too."""
    return float(f"{float(value):.{DIGITS}g}")


def as_metadata(said: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata whose numbers Dagster takes and plots: of Python's types, rounded; what is not finite is text."""
    return {name: _plain(value) for name, value in said.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    if isinstance(value, Integral):
        return int(value)
    return rounded(float(value)) if math.isfinite(value) else str(float(value))
