"""Temporary folders that do not outlive their process by much, even one that was killed."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

PREFIX = "mediafm-scratch-"
YOUNGEST_LEFT_S = 60
"""A folder is made and locked in two steps: one as young as this may be about to be locked."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder of this process, deleted after the `with` block. The first one of a process also deletes those that
    killed processes left. A folder is locked for as long as its process lives, whatever its number or container."""
    _sweep(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Path(folder)
        finally:
            os.close(lock)


@cache
def _sweep(parent: str) -> None:
    for entry in os.scandir(parent):
        if not entry.name.startswith(PREFIX):
            continue
        try:
            folder = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # gone, another user's, or no folder
            continue
        try:
            info = os.fstat(folder)
            if info.st_uid != os.getuid() or info.st_mtime > time.time() - YOUNGEST_LEFT_S:
                continue
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry.path, ignore_errors=True)
        except OSError:  # its process lives
            continue
        finally:
            os.close(folder)
