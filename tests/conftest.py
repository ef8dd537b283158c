"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

from resources.demo_catalogue import render_catalogue

SHARED_MEDIA = Path(__file__).parents[2] / "shared" / "media"


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real films and odd files beside the checkout; tests that need it are skipped elsewhere."""
    if not SHARED_MEDIA.is_dir():
        pytest.skip("the folder of real films (../shared/media) is not beside this checkout")
    return SHARED_MEDIA


@pytest.fixture(scope="session")
def small_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A landing zone of six short rendered titles with labels, its truth in truth/<id>.json. Look, but do not touch.

    In their order: srt; no audio; no subtitles; vtt; two episodes of one series with ass and ttml. The files are an
    hour old, so that nobody takes them for still being copied.
    """
    folder = render_catalogue(tmp_path_factory.mktemp("catalogue"), titles=6, shots_per_title=8).folder
    for path in folder.rglob("*"):
        times = path.stat()
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns - 3_600_000_000_000))
    return folder
