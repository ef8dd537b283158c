"""Convolutions of 3 x 3 with fewer multiplications.

F(4 x 4, 3 x 3) of Lavin and Gray, "Fast algorithms for convolutional neural networks", 2015 (arXiv 1509.09308), section
4.3: a tile of 6 x 6 inputs becomes 36 sums, each of which is multiplied once to give 4 x 4 outputs; a direct
convolution multiplies 144 times. What is won in products is lost again in memory unless all stages of a few pictures
stay in the processor's cache, so pictures are taken a few at a time into buffers that are made once for all of them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_TILE, _OUTPUTS = 6, 4
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
_CACHED_BYTES = 4 << 20
"""Of the largest buffer, or as many as the weights have if those are more: pictures are taken so many at a time."""


class Convolutions:
    """Several of one input, of stride 1, with a border of zeros, in float32 on the CPU.

    weights: (out, in, 3, 3) each.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        kernel, of_input, of_output = (torch.tensor(rows, dtype=torch.float64) for rows in (_KERNEL, _INPUT, _OUTPUT))
        products = torch.einsum("xi,yj,ocij->xyco", kernel, kernel, torch.cat(list(weights)).double())
        self._n = len(weights)
        self._weight = products.flatten(0, 1).float().contiguous()  # (36, in, all out)
        self._of_input = torch.kron(of_input, of_input).float()  # (36, 36)
        self._of_output = torch.kron(of_output, of_output).float()  # (16, 36)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """(n, height, width, in) -> (n, height, width, out) of each."""
        n, height, width, channels = x.shape
        out = self._weight.shape[2]
        down, across = -(-height // _OUTPUTS), -(-width // _OUTPUTS)
        tiles = down * across
        largest = max(_CACHED_BYTES, self._weight.nbytes)
        at_once = min(n, max(1, largest // (4 * _TILE**2 * tiles * out)))
        padded = torch.zeros(at_once, _OUTPUTS * down + 2, _OUTPUTS * across + 2, channels)
        of_picture, of_row, of_pixel, _ = padded.stride()
        overlapping = padded.as_strided(
            (_TILE, _TILE, at_once, down, across, channels),
            (of_row, of_pixel, of_picture, _OUTPUTS * of_row, _OUTPUTS * of_pixel, 1),
        )
        inputs = torch.empty(overlapping.shape)
        sums = torch.empty(_TILE**2, at_once * tiles * channels)
        products = torch.empty(_TILE**2, at_once * tiles, out)
        outputs = torch.empty(_OUTPUTS, _OUTPUTS, at_once, down, across, self._n, out // self._n)
        pictures = torch.empty(self._n, at_once, down, _OUTPUTS, across, _OUTPUTS, out // self._n)
        whole = pictures.flatten(4, 5).flatten(2, 3)
        results = [torch.empty(n, height, width, out // self._n) for _ in range(self._n)]
        for first in range(0, n, at_once):
            some = x[first : first + at_once]
            padded[: len(some), 1 : height + 1, 1 : width + 1] = some
            inputs.copy_(overlapping)
            torch.mm(self._of_input, inputs.view(_TILE**2, -1), out=sums)
            torch.bmm(sums.view(_TILE**2, -1, channels), self._weight, out=products)
            torch.mm(self._of_output, products.view(_TILE**2, -1), out=outputs.view(_OUTPUTS**2, -1))
            pictures.copy_(outputs.permute(5, 2, 3, 0, 4, 1, 6))
            for result, own in zip(results, whole, strict=True):
                result[first : first + at_once] = own[: len(some), :height, :width]
        return results
