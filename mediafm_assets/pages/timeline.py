"""Where things of a film stand on a drawing of its time: SVG needs numbers, and a page's style sheet has none."""

from collections.abc import Mapping, Sequence
from typing import Any

from mediafm_assets.pages.catalogue import Row

CURVE_HEIGHT = 100
CURVE_WIDTH = 1000
MOST_TICKS = 8
TICKS_S = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)


def clock(seconds: float, tenths: bool = False) -> str:
    """Seconds as people write them: 0:07, 12:30, 1:02:03; with tenths 0:07.5."""
    whole = round(seconds * 10) // 10 if tenths else int(seconds)
    text = (
        f"{whole // 60}:{whole % 60:02}" if whole < 3600 else f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
    )
    return f"{text}.{round(seconds * 10) % 10}" if tenths else text


def timeline(view: Row) -> Row | None:
    """What a title's drawing consists of, with positions and widths in percent of the film's length; None without
    shots. `curves`: points of polylines in a box of `CURVE_WIDTH` by `CURVE_HEIGHT`, between `low` and 1."""
    shots = view["shots"]
    if not shots:
        return None
    end = max(shots[-1]["end_s"], 0.001)

    def at(seconds: float) -> float:
        return round(100 * min(max(seconds / end, 0.0), 1.0), 3)

    def span(row: Row) -> Row:
        start = at(row["start_s"])
        return {**row, "x": start, "width": round(at(row["end_s"]) - start, 3)}

    every = next((tick for tick in TICKS_S if end / tick <= MOST_TICKS), TICKS_S[-1])
    curves, low = _curves(view["cosines"], shots, end)
    return {
        "end_s": end,
        "shots": [span(row) for row in shots],
        "scenes": [span(row) for row in view["scenes"]],
        "highlights": [span(row) for row in view["highlights"]],
        "ad_breaks": [{**row, "x": at(row["time_s"])} for row in view["ad_breaks"]],
        "ticks": [{"x": at(second), "text": clock(second)} for second in range(0, int(end) + 1, every)],
        "curves": curves,
        "low": low,
    }


def _curves(cosines: Mapping[str, Sequence[float]], shots: Sequence[Row], end: float) -> tuple[dict[str, str], float]:
    lowest = min((min(values) for values in cosines.values()), default=0.0)
    low = min(int(lowest * 10 - (lowest < 0)) / 10, 0.9)
    points = {}
    for name, values in cosines.items():
        # Between two shots is where the one ends and the next begins.
        pairs = zip((shot["end_s"] for shot in shots), values, strict=False)
        points[name] = " ".join(
            f"{CURVE_WIDTH * time_s / end:.1f},{CURVE_HEIGHT * (1 - (value - low) / (1 - low)):.1f}"
            for time_s, value in pairs
        )
    return points, low


def training_curve(rows: Sequence[Row]) -> Row | None:
    """The losses of a training as polylines by split, with what the axes' ends stand for; None with fewer than two."""
    losses: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        losses.setdefault(row["split"], []).append((row["step"], row["loss"]))
    values = [loss for curve in losses.values() for _, loss in curve]
    last = max((step for curve in losses.values() for step, _ in curve), default=0)
    if len(values) < 2 or not last:
        return None
    low, high = min(values), max(values)
    width = max(high - low, 1e-9)
    points: dict[str, Any] = {
        split: " ".join(
            f"{CURVE_WIDTH * step / last:.1f},{CURVE_HEIGHT * (high - loss) / width:.1f}"
            for step, loss in sorted(curve)
        )
        for split, curve in losses.items()
    }
    return {"points": points, "low": low, "high": high, "steps": last}
