"""A finished small catalogue with hostile and incomplete titles in it, served by a real server."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import polars as pl
import pytest

from mediafm_assets.pages.app import application
from mediafm_assets.pages.catalogue import Catalogue
from mediafm_assets.pages.commands import LOCAL, server_of
from mediafm_assets.pages.search import Search
from mediafm_assets.settings import resources
from resources.lake import DeltaLake
from tests.mediafm_assets.conftest import Places
from tests.mediafm_assets.pages import uses
from tests.resources.lake_rows import rows

SCRIPT = "<script>window.pwned = 1</script>"
BARE = "bare"
"""A title without shots."""


@dataclass
class Site:
    """A served catalogue. ids: its finished titles, of which the first has rows in every table of uses, the second a
    script for a name; gone: the id of a title that was deleted while its other tables stayed."""

    url: str
    places: Places
    ids: list[str]
    gone: str

    @property
    def lake(self) -> DeltaLake:
        return self.places.lake

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=30, **options)


@contextmanager
def serving(places: Places, **environment: str) -> Iterator[str]:
    """The application on the places, served on a free port of this machine; its address."""
    configured = resources({**places.environment, **environment})
    catalogue = Catalogue(configured["lake"])
    app = application(catalogue, Search(catalogue, configured), configured["landing"], LOCAL)
    listening = socket.create_server(("127.0.0.1", 0))
    server = server_of(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="package")
def site(finished: Places, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Look, but do not touch."""
    places = finished.copy(tmp_path_factory.mktemp("site") / "places")
    lake = places.lake
    *ids, gone = sorted(title_id for (title_id,) in lake.data_versions("titles"))
    uses.write_all(lake, ids[0], ids[1])
    named = lake.read("titles", title_id=ids[1]).with_columns(title=pl.lit(SCRIPT), synopsis=pl.lit(f'"{SCRIPT}&'))
    lake.write("titles", {"title_id": ids[1]}, named, "8" * 32)
    lake.write("titles", {"title_id": BARE}, rows("titles", 1), "7" * 32)
    lake.delete("titles", {"title_id": gone})
    with serving(places) as url:
        yield Site(url, places, ids, gone)
