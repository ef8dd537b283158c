"""Where a model's checkpoint lies, and what identifies its weights."""

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

from resources.errors import Unavailable

# Besides the weights, these decide what a checkpoint computes.
CONFIGURATION = ("config.json", "preprocessor_config.json", "processor_config.json")
TEXTS = ["*.json", "*.txt", "*.model"]


def checkpoint_folder(model: str) -> Path:
    """The local folder of a checkpoint: `model` itself when it is a folder, else the hub's snapshot, downloaded once.

    Raises Unavailable when there is neither such a folder nor, on the hub or in its local cache, such a repository.
    """
    folder = Path(model) if Path(model).is_dir() else _hub_snapshot(model)
    if not (folder / "config.json").is_file() or not weight_files(folder):
        raise Unavailable(f"The checkpoint {model} is incomplete: it needs a config.json and weights in safetensors.")
    return folder


@functools.cache
def _hub_snapshot(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(model, allow_patterns=[*TEXTS, "*.safetensors"]))
        if not weight_files(folder):  # an old repository, before safetensors
            folder = Path(snapshot_download(model, allow_patterns=[*TEXTS, "pytorch_model*.bin"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise Unavailable(
            f"The checkpoint {model} is neither a local folder nor on the model hub as far as it can be reached "
            f"({type(error).__name__}); name a folder, or download it while there is a network."
        ) from error
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a checkpoint's weights: safetensors, else the state dicts that predate them."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def weights_identity(folder: Path, configuration: Iterable[str] = CONFIGURATION) -> str:
    """12 hex digits of the SHA-256 over weights and configuration: the same for a hub name and a copy of its folder."""
    digest = hashlib.sha256()
    for path in [*weight_files(folder), *(folder / name for name in configuration if (folder / name).is_file())]:
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return digest.hexdigest()[:12]


def file_sha256(path: Path) -> str:
    """The file's SHA-256 in hex, computed once per process while its size and time stay."""
    status = path.stat()
    return _sha256(path, status.st_mtime_ns, status.st_size)


@functools.cache
def _sha256(path: Path, mtime_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def torch_device(device: str) -> str:
    """ "auto" resolved to "cuda" where there is a usable GPU, else "cpu"; anything else is taken as PyTorch's name."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def device_problems(device: str, dtype: str) -> list[str]:
    """One sentence for each reason why the models cannot run on this device in this precision."""
    import torch

    problems = []
    if dtype not in ("float32", "bfloat16", "float16"):
        problems.append(f"The encoders' dtype is {dtype!r}, but it must be float32, bfloat16 or float16.")
    if device != "auto":
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError):
            problems.append(f"The encoders' device is {device!r}, which this machine's PyTorch does not have.")
    return problems
