"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

SHARED_MEDIA = Path(__file__).parents[2] / "shared" / "media"


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real films and odd files that lies beside the checkout; tests that need it are skipped elsewhere."""
    if not SHARED_MEDIA.is_dir():
        pytest.skip("the folder of real films (../shared/media) is not beside this checkout")
    return SHARED_MEDIA
