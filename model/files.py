"""Files that are whole or absent."""

import os
from pathlib import Path


def write_atomically(target: Path, content: bytes) -> None:
    """Replaces target by content or, if that fails (a full disk, say), leaves it as it was. Raises OSError.

    Written aside, synced and renamed, under a name that ends in .partial until then.
    """
    partial = target.with_name(target.name + ".partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
