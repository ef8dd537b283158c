"""Pictures of titles and trainings for people who look at the graph: small WebP files, legible on light and dark pages.

A title's take milliseconds, by NumPy and Pillow. Those that are drawn once a generation may take Matplotlib.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

LARGEST = 34_000
"""Bytes of a picture: as a data URI, which is a third longer, it stays below 48 kB."""

SHEET_COLUMNS, SHEET_ROWS, THUMBNAIL = 8, 6, 96
SIDE = 240
"""Of square pictures, in pixels."""
STRIP_WIDTH, BAND_HEIGHT, CUTS_HEIGHT = 720, 2, 8
GREY = "#8a8f98"
"""Of text and axes: it is read on white and on black."""
RAMP = ((38, 12, 81), (107, 0, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33))
"""Five colours of Matplotlib's `plasma`, from low to high; in equal steps of lightness."""


def webp(image: "Image.Image") -> bytes:
    """The picture as WebP of at most `LARGEST` bytes: with less quality, then smaller, until it fits."""
    while True:
        for quality in (75, 50, 25):
            with io.BytesIO() as file:
                image.save(file, format="WEBP", quality=quality, method=2)
                if file.tell() <= LARGEST:
                    return file.getvalue()
        image = image.resize((max(1, image.width * 2 // 3), max(1, image.height * 2 // 3)))


def contact_sheet(jpegs: Sequence[bytes]) -> bytes:
    """A picture of each shot, in order, in rows of eight; of more than 48 shots, evenly chosen ones.

    jpegs: one of each shot, at least one.
    """
    from PIL import Image

    chosen = evenly(len(jpegs), SHEET_COLUMNS * SHEET_ROWS)
    rows = -(-len(chosen) // SHEET_COLUMNS)
    cell = THUMBNAIL + 4
    height = _thumbnail(jpegs[chosen[0]]).height + 4
    sheet = Image.new("RGBA", (cell * min(len(chosen), SHEET_COLUMNS), height * rows), (0, 0, 0, 0))
    for place, shot in enumerate(chosen):
        row, column = divmod(place, SHEET_COLUMNS)
        sheet.paste(_thumbnail(jpegs[shot]), (column * cell + 2, row * height + 2))
    return webp(sheet)


def _thumbnail(jpeg: bytes) -> "Image.Image":
    from PIL import Image

    with Image.open(io.BytesIO(jpeg)) as image:
        image.draft("RGB", (THUMBNAIL, THUMBNAIL))  # the decoder then skips most of the picture
        height = min(max(1, round(image.height * THUMBNAIL / image.width)), 2 * THUMBNAIL)
        return image.convert("RGB").resize((THUMBNAIL, height))


def evenly(of: int, most: int) -> list[int]:
    """At most `most` of the numbers below `of`, evenly spaced, with the first."""
    return [place * of // min(of, most) for place in range(min(of, most))]


def coloured(values: "np.ndarray") -> "np.ndarray":
    """Colours (…, 3) as bytes of values in 0..1."""
    import numpy as np

    at = np.linspace(0, 1, len(RAMP))
    return np.stack([np.interp(values, at, [colour[channel] for colour in RAMP]) for channel in range(3)], -1).astype(
        np.uint8
    )


def spread(values: "np.ndarray") -> "np.ndarray":
    """The values in 0..1, all but the outermost hundredths of them; zeros where all are equal."""
    import numpy as np

    low, high = np.percentile(values, [1, 99])
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)


def self_similarity(vectors: "np.ndarray") -> bytes:
    """How like each shot is to each other, the title from left to right and from top to bottom: bright is alike.

    vectors: (shots, n). Of many shots, neighbours are taken together.
    """
    import numpy as np
    from PIL import Image

    units = _units(_means(vectors, SIDE))
    picture = Image.fromarray(coloured(spread(np.asarray(units @ units.T, dtype=np.float32))))
    return webp(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST))


def _means(vectors: "np.ndarray", most: int) -> "np.ndarray":
    """At most so many vectors: means of runs of equal length."""
    import numpy as np

    starts = evenly(len(vectors), most)
    counts = np.diff([*starts, len(vectors)])[:, None]
    return np.asarray(np.add.reduceat(vectors.astype(np.float32), starts) / counts)


def _units(vectors: "np.ndarray") -> "np.ndarray":
    import numpy as np

    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9))


class Sound:
    """Listens to a film's shots as they go by, and draws what was heard: frequencies on mel bands over time, the shots
    as light and dark blocks beneath."""

    def __init__(self, spans: Sequence[tuple[float, float]]) -> None:
        seconds = max(spans[-1][1] - spans[0][0], 1e-9)
        # A long film's shots have a spectrum each, so what this costs does not grow with the film.
        self._columns = [max(1, round(STRIP_WIDTH * (end - start) / seconds)) for start, end in spans]
        self.heard: list[np.ndarray] = []

    def listen(self, shots: "Iterable[np.ndarray]") -> "Iterable[np.ndarray]":
        """The same shots' samples (16 kHz, mono), looked at on the way."""
        import numpy as np

        from resources.encoders.audio.mel_statistics import FFT, mel_bank

        taper = np.hanning(FFT).astype(np.float32)
        for columns, samples in zip(self._columns, shots, strict=False):
            starts = np.linspace(0, max(0, len(samples) - FFT), columns).astype(int)
            padded = np.pad(samples, (0, max(0, FFT - len(samples))))
            power = np.abs(np.fft.rfft(padded[starts[:, None] + np.arange(FFT)] * taper, axis=1)) ** 2
            self.heard.append(np.log10(power @ mel_bank() + 1e-6))
            yield samples

    def strip(self) -> bytes:
        import numpy as np
        from PIL import Image

        picture = coloured(spread(np.concatenate(self.heard).T[::-1])).repeat(BAND_HEIGHT, axis=0)
        shades = [np.full(len(of_shot), 110 if shot % 2 else 190) for shot, of_shot in enumerate(self.heard)]
        cuts = np.broadcast_to(np.concatenate(shades)[None, :, None], (CUTS_HEIGHT, picture.shape[1], 3))
        whole = Image.fromarray(np.concatenate([picture, cuts]).astype(np.uint8))
        return webp(whole.resize((STRIP_WIDTH, whole.height)))


def curve_and_map(vectors: "np.ndarray", groups: "np.ndarray") -> bytes:
    """Left, how like each shot is to the next, over the title; right, the shots on the two directions in which they
    differ most (principal components), those that follow each other joined by a line.

    vectors: (shots, n). groups: a number for each shot, by which it is coloured: its scene, or its place.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    units = _units(vectors.astype(np.float32))
    scale = 2  # Pillow draws without smoothing: drawn large and made small
    side, gap = SIDE * scale, 24 * scale
    image = Image.new("RGBA", (3 * side + gap, side), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    alike = np.sum(units[1:] * units[:-1], axis=1)
    left = 2 * side
    for at in (0, 0.5, 1):  # 0, a half and 1 on the axis
        y = _down(np.array([at]), side)[0]
        draw.line([(0, y), (left, y)], fill=GREY, width=1)
    if len(alike):
        x = (np.arange(len(alike)) + 0.5) * left / len(alike)
        points = list(zip(x.tolist(), _down(np.clip(alike, 0, 1), side).tolist(), strict=True))
        draw.line(points, fill=(204, 71, 120), width=2 * scale, joint="curve")
    colours = coloured(spread(groups.astype(np.float32)))
    places = principal_plane(_means(units, 600))
    colours = colours[evenly(len(units), 600)]
    span = np.maximum(np.abs(places).max(axis=0), 1e-9)
    on_map = (places / span * 0.46 + 0.5) * side + [left + gap, 0]
    draw.line([tuple(place) for place in on_map.tolist()], fill=(138, 143, 152, 110), width=scale)
    for (x_, y_), colour in zip(on_map.tolist(), colours.tolist(), strict=True):
        draw.ellipse([x_ - 4 * scale, y_ - 4 * scale, x_ + 4 * scale, y_ + 4 * scale], fill=tuple(colour))
    return webp(image.resize((image.width // scale, image.height // scale), Image.Resampling.BOX))


def _down(values: "np.ndarray", height: int) -> "np.ndarray":
    """Of values in 0..1 how far from the top they are drawn, with a margin."""
    return (1 - values) * height * 0.92 + height * 0.04


def principal_plane(vectors: "np.ndarray") -> "np.ndarray":
    """The vectors (m, n) on the two directions in which they differ most, (m, 2)."""
    import numpy as np

    centred = vectors - vectors.mean(axis=0)
    values, directions = np.linalg.eigh(centred @ centred.T)  # m by m: fewer shots than numbers
    return (
        np.asarray(directions[:, -2:][:, ::-1] * np.sqrt(np.maximum(values[-2:][::-1], 0)))
        if len(vectors) > 1
        else np.zeros((len(vectors), 2))
    )


def training_chart(lines: Sequence[Mapping[str, Any]], skills: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The loss of both splits over the steps, and beside it the skill by modality with its interval.

    lines: of training.jsonl. skills: of the validation, by part; may be empty.
    """
    figure, axes = _chart(2 if skills else 1)
    for split in ("train", "validation"):
        points = [(line["step"], line["loss"]) for line in lines if line["split"] == split]
        if points:
            axes[0].plot(*zip(*points, strict=True), label=split, marker="." if len(points) < 3 else "")
    axes[0].set(xlabel="step", ylabel="loss at masked shots")
    if skills:
        _intervals(axes[1], [(part, of["skill"], of.get("low"), of.get("high")) for part, of in skills.items()])
        axes[1].axvline(0, color=GREY, linewidth=0.8, linestyle=":")
        axes[1].set(xlabel="skill over the best without a model")
    return _drawn(figure, axes[:1])


def probe_chart(
    scores: Mapping[str, Sequence[tuple[str, float, float | None, float | None]]],
    history: Mapping[str, Sequence[tuple[str, float]]],
) -> bytes:
    """A panel for each task with each representation's score and interval, and one with tasks over generations.

    scores:  by task, (representation, value, low, high).
    history: by task, (encoder version, value) of the contextual embeddings, the oldest first.
    """
    figure, axes = _chart(len(scores) + 1, columns=3)
    for panel, (task, rows) in zip(axes, scores.items(), strict=False):
        _intervals(panel, rows)
        panel.set_title(task, fontsize=9, color=GREY)
    for task, points in history.items():
        axes[len(scores)].plot([value for _version, value in points], marker="o", markersize=3, label=task)
    longest = max((len(points) for points in history.values()), default=0)
    axes[len(scores)].set_xticks(range(longest))
    axes[len(scores)].set_title("in context, by generation", fontsize=9, color=GREY)
    return _drawn(figure, [axes[len(scores)]] if history else [])


def ablation_chart(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A panel for each task, as in the publication's ablation: what each modality scores, what several do side by side,
    and what they do in context.

    rows: of the table `ablations`, of all seeds together, in the order to draw them in.
    """
    shown = [row for row in rows if row["ablation"] == "modalities"]
    shown += [row for row in rows if row["ablation"] == "context" and row["variant"] != "concatenated"]
    by_task: dict[str, list[tuple[str, float, float | None, float | None]]] = {}
    for row in shown:
        if row["value"] is not None and row["n_clips"] is not None:
            interval = row["value"], row["ci_low"], row["ci_high"]
            by_task.setdefault(row["task"], []).append((row["variant"].replace("_", " "), *interval))
    figure, axes = _chart(max(1, len(by_task)), columns=3)
    for panel, (task, scores) in zip(axes, by_task.items(), strict=False):
        _intervals(panel, scores)
        panel.set_title(task, fontsize=9, color=GREY)
    return _drawn(figure, [])


def difference_chart(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A panel for each task with each variant's difference to the one that it is compared with, and its interval.

    rows: as of `ablation_chart`, those that have a difference.
    """
    names = list(dict.fromkeys((row["ablation"], row["variant"]) for row in rows))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    of_names = 2.6  # inches, beside the first panel
    width = 1.7 + of_names / max(1, len(tasks))
    figure, axes = _chart(max(1, len(tasks)), columns=len(tasks) or 1, height=0.16 * len(names) + 0.8, width=width)
    for panel, task in zip(axes, tasks, strict=False):
        for row in rows:
            if row["task"] == task:
                place = names.index((row["ablation"], row["variant"]))
                panel.plot([row["difference_low"], row["difference_high"]], [place, place], color=GREY, linewidth=1.2)
                panel.plot([row["difference"]], [place], "o", color="#cc4778", markersize=3.5)
        panel.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
        panel.set_ylim(len(names) - 0.5, -0.5)
        labels = [f"{ablation}: {variant}".replace("_", " ") for ablation, variant in names]
        panel.set_yticks(range(len(names)), labels if panel is axes[0] else [""] * len(names))
        panel.set_title(task, fontsize=9, color=GREY)
    return _drawn(figure, [])


def _chart(panels: int, columns: int = 2, height: float = 2.7, width: float = 4) -> tuple[Any, list[Any]]:
    """A figure with so many panels, transparent, its axes in a grey that is read on light and dark pages.

    height, width: of a panel, in inches."""
    from matplotlib.figure import Figure

    rows = -(-panels // columns)
    figure = Figure(
        figsize=(width * min(panels, columns), height * rows), dpi=80, layout="constrained", facecolor="none"
    )
    axes = list(figure.subplots(rows, min(panels, columns), squeeze=False).flat)
    for panel in axes:
        panel.set_facecolor("none")
        panel.tick_params(colors=GREY, labelsize=8)
        panel.xaxis.label.set_color(GREY)
        panel.yaxis.label.set_color(GREY)
        for spine in panel.spines.values():
            spine.set_color(GREY)
    for panel in axes[panels:]:
        panel.set_visible(False)
    return figure, axes[:panels]


def _intervals(panel: Any, rows: Sequence[tuple[str, float, float | None, float | None]]) -> None:
    for place, (_name, value, low, high) in enumerate(rows):
        if low is not None and high is not None:
            panel.plot([low, high], [place, place], color=GREY, linewidth=1.5)
        panel.plot([value], [place], "o", color="#cc4778", markersize=5)
    panel.set_yticks(range(len(rows)), [name for name, *_ in rows])
    panel.invert_yaxis()


def _drawn(figure: Any, with_legend: Sequence[Any]) -> bytes:
    from PIL import Image

    for panel in with_legend:
        panel.legend(fontsize=8, labelcolor=GREY, frameon=False)
    with io.BytesIO() as file:
        figure.savefig(file, format="png", facecolor="none")
        with Image.open(file) as image:
            return webp(image.convert("RGBA"))
