"""Winograd's convolutions give what PyTorch's give."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.winograd import Convolutions


@settings(deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 30), st.integers(1, 30), st.integers(1, 12), st.integers(1, 9), st.integers(1, 4)
)
def test_they_equal_direct_convolutions_whatever_the_sizes(
    n: int, height: int, width: int, channels: int, out: int, several: int
) -> None:
    random = torch.Generator().manual_seed(n * height * width * channels * out)
    x = torch.randn(n, height, width, channels, generator=random)
    weights = [torch.randn(out, channels, 3, 3, generator=random) for _ in range(several)]
    results = Convolutions(weights)(x)
    for weight, result in zip(weights, results, strict=True):
        direct = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), weight, padding=1).permute(0, 2, 3, 1)
        torch.testing.assert_close(result, direct, rtol=1e-4, atol=1e-3)


def test_pictures_that_do_not_fit_into_the_cache_at_once_are_all_there() -> None:
    x = torch.randn(100, 13, 24, 64)
    weight = torch.randn(256, 64, 3, 3) / 24
    (result,) = Convolutions([weight])(x)
    direct = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), weight, padding=1).permute(0, 2, 3, 1)
    torch.testing.assert_close(result, direct, rtol=1e-4, atol=1e-3)
