"""What the UI shows of a materialisation: numbers as a person reads them, and pictures."""

import base64
import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import dagster as dg

DIGITS = 4


def rounded(value: float) -> float:
    """To four significant digits; float32, which prints more digits than it has, too."""
    return float(f"{float(value):.{DIGITS}g}")


def as_metadata(said: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata whose numbers Dagster takes and plots: of Python's types, rounded; what is not finite is text."""
    return {name: _plain(value) for name, value in said.items()}


def without_a_run(result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """The result, which names its asset and check, as an event that Dagster can be told of outside of any run."""
    assert result.asset_key
    assert result.check_name
    return dg.AssetCheckEvaluation(
        asset_key=result.asset_key,
        check_name=result.check_name,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
    )


def picture(webp: bytes, alternative: str) -> dg.MarkdownMetadataValue:
    """A picture in the metadata. alternative: what it shows, in words, for those who do not see it."""
    return dg.MetadataValue.md(f"![{alternative}](data:image/webp;base64,{base64.b64encode(webp).decode()})")


def _plain(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    if isinstance(value, Integral):
        return int(value)
    return rounded(float(value)) if math.isfinite(value) else str(float(value))
