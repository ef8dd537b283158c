"""What a shot looks like, in 768 numbers, without a learned model.

Every frame is described by classical descriptors on a spatial grid, each block is made comparable and centred by a
fixed transform, and the frames are averaged:

    hues        6 cells x 32    marginal histograms of hue, saturation and value per cell
    palette     8 x 4 x 4       joint histogram of hue, saturation and value over the frame
    layout      3 x 8 x 6       mean lightness and opponent colours of a coarse grid (as MPEG-7's colour layout)
    gradients   16 cells x 9    histograms of oriented gradients (Dalal and Triggs 2005, unsigned, magnitude-weighted)
    texture     6 cells x 16    local binary patterns of the four neighbours (Ojala et al. 2002)
    change      8 x 8           mean absolute difference of lightness between neighbouring frames

Histograms enter as square roots (Hellinger), so that a few large bins do not own the cosine, and lose their own mean,
so that two unrelated frames lie near cosine 0 and not near 1. Nothing here is fitted to data: a title's vectors depend
on that title alone.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 96, 64  # frames are stretched to this: cells are relative to the frame, whatever its aspect


# The share of the vector's energy that each block may have.
SHARES = {"hues": 0.3, "palette": 0.3, "layout": 0.2, "gradients": 0.1, "texture": 0.08, "change": 0.02}


def describe_shot(jpegs: Sequence[bytes]) -> np.ndarray:
    """The unit-norm (768,) float32 descriptor of a shot given as its JPEG frames; raises ValueError without frames."""
    if not jpegs:
        raise ValueError("a shot without frames has no visual descriptor")
    rgb = np.stack([_pixels(jpeg) for jpeg in jpegs])  # (n, HEIGHT, WIDTH, 3) in 0..1
    lightness = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    colours = _Colours(rgb)
    blocks = {
        "hues": _hues(colours),
        "palette": _palette(colours),
        "layout": _layout(rgb, lightness),
        "gradients": _gradients(lightness),
        "texture": _texture(lightness),
        "change": _change(lightness),
    }
    vector = np.concatenate([_scaled(blocks[name].mean(0)) * share**0.5 for name, share in SHARES.items()])
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def palette(jpegs: Sequence[bytes]) -> np.ndarray:
    """The palette block alone, (128,) float32, centred; raises ValueError without frames."""
    if not jpegs:
        raise ValueError("a shot without frames has no palette")
    return _palette(_Colours(np.stack([_pixels(jpeg) for jpeg in jpegs]))).mean(0)


def _pixels(jpeg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg)) as image:
        image.draft("RGB", (WIDTH, HEIGHT))  # lets the decoder skip the detail that the resize would drop
        small = image.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32) / 255


def _scaled(block: np.ndarray) -> np.ndarray:
    """The block at unit norm; a block with next to nothing in it (a black frame's gradients) stays next to nothing."""
    return block / (np.linalg.norm(block) + 1e-3)


def _histograms(bins: np.ndarray, weights: np.ndarray, cells: np.ndarray, n_bins: int) -> np.ndarray:
    """Per frame and cell: (n, cells * n_bins), each cell's histogram summing to 1, square-rooted and centred.

    `bins` (n, h, w) int, `weights` (n, h, w), `cells` (h, w) int.
    """
    n, n_cells = len(bins), int(cells.max()) + 1
    index = (np.arange(n)[:, None, None] * n_cells + cells) * n_bins + bins
    counts = np.bincount(index.ravel(), weights.ravel(), n * n_cells * n_bins).reshape(n, n_cells, n_bins)
    counts = counts / (counts.sum(2, keepdims=True) + 1e-6)
    roots = np.sqrt(counts)
    return (roots - roots.mean(2, keepdims=True)).reshape(n, -1).astype(np.float32)


def _grid(height: int, width: int, rows: int, columns: int) -> np.ndarray:
    """(height, width) int: the cell of each pixel, row by row."""
    return (np.arange(height) * rows // height)[:, None] * columns + np.arange(width) * columns // width


class _Colours:
    """Of pictures (n, h, w, 3) in 0..1, each (n, h, w): hue in 0..1, saturation, value, chroma."""

    def __init__(self, rgb: np.ndarray) -> None:
        red, green, blue = np.moveaxis(rgb, 3, 0)
        # Two by two: NumPy's reductions over an axis of three are ten times slower.
        self.value = np.maximum(np.maximum(red, green), blue)
        self.chroma = self.value - np.minimum(np.minimum(red, green), blue)
        safe = np.where(self.chroma > 0, self.chroma, 1)
        sixths = np.select(
            [self.value == red, self.value == green],
            [(green - blue) / safe % 6, (blue - red) / safe + 2],
            (red - green) / safe + 4,
        )
        self.hue = sixths / 6
        self.saturation = self.chroma / np.where(self.value > 0, self.value, 1)


def _hues(colours: _Colours) -> np.ndarray:
    ones = np.ones_like(colours.value)
    cells = _grid(HEIGHT, WIDTH, 2, 3)
    # A grey pixel's hue is noise: it counts by its chroma.
    by_hue = _histograms(_levels(colours.hue, 16), colours.chroma + 1e-4, cells, 16)
    by_saturation = _histograms(_levels(colours.saturation, 6), ones, cells, 6)
    by_value = _histograms(_levels(colours.value, 10), ones, cells, 10)
    return np.concatenate([by_hue, by_saturation, by_value], 1)


def _palette(colours: _Colours) -> np.ndarray:
    joint = (_levels(colours.hue, 8) * 4 + _levels(colours.saturation, 4)) * 4 + _levels(colours.value, 4)
    return _histograms(joint, np.ones_like(colours.value), np.zeros((HEIGHT, WIDTH), int), 128)


def _levels(unit: np.ndarray, levels: int) -> np.ndarray:
    return np.clip((unit * levels).astype(np.int64), 0, levels - 1)


def _layout(rgb: np.ndarray, lightness: np.ndarray) -> np.ndarray:
    opponents = np.stack([lightness - 0.4, rgb[..., 0] - lightness, rgb[..., 2] - lightness], 1)  # (n, 3, h, w)
    return _pooled(opponents, 6, 8).reshape(len(rgb), -1)


def _pooled(maps: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(..., h, w) to the means of a grid, (..., rows, columns); the cells' edges are rounded to pixels."""
    height, width = maps.shape[-2:]
    sums = np.add.reduceat(maps, np.arange(rows) * height // rows, axis=-2)
    sums = np.add.reduceat(sums, np.arange(columns) * width // columns, axis=-1)
    counts = np.bincount(_grid(height, width, rows, columns).ravel()).reshape(rows, columns)
    return sums / counts


def _gradients(lightness: np.ndarray) -> np.ndarray:
    gy = lightness[:, 2:, 1:-1] - lightness[:, :-2, 1:-1]
    gx = lightness[:, 1:-1, 2:] - lightness[:, 1:-1, :-2]
    orientation = np.arctan2(gy, gx) / np.pi % 1  # unsigned: 0..1 is half a turn
    cells = _grid(HEIGHT - 2, WIDTH - 2, 4, 4)
    return _histograms(_levels(orientation, 9), np.hypot(gx, gy) + 1e-3, cells, 9)


def _texture(lightness: np.ndarray) -> np.ndarray:
    centre = lightness[:, 1:-1, 1:-1] + 0.01  # noise in a flat area is no pattern
    neighbours = (lightness[:, :-2, 1:-1], lightness[:, 1:-1, 2:], lightness[:, 2:, 1:-1], lightness[:, 1:-1, :-2])
    codes = sum((neighbour > centre).astype(np.int64) << bit for bit, neighbour in enumerate(neighbours))
    return _histograms(np.asarray(codes), np.ones_like(centre), _grid(HEIGHT - 2, WIDTH - 2, 2, 3), 16)


def _change(lightness: np.ndarray) -> np.ndarray:
    """Where and how much the picture moves: (1, 64); a single frame is a still shot."""
    steps = np.abs(np.diff(lightness, axis=0)) if len(lightness) > 1 else np.zeros_like(lightness)
    return np.sqrt(_pooled(steps.mean(0, keepdims=True), 8, 8)).reshape(1, -1) - 0.2
