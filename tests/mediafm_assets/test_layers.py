"""The house's walls: who imports whom, and what loading the code location costs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGES = ("model", "resources", "mediafm_assets")
LEAVES = ("model.precision", "model.tasks", "model.modalities")  # which all may import: docs/decisions.md
MAY_IMPORT = {
    "model": ("model",),
    "resources": ("resources", *LEAVES),
    "mediafm_assets.settings": ("resources", "model"),
    "mediafm_assets.graph": ("mediafm_assets.graph", "resources", *LEAVES),
    "mediafm_assets.defs": (
        "mediafm_assets.defs",
        "mediafm_assets.graph",
        "mediafm_assets.settings",
        "resources",
        "model",
    ),
    "mediafm_assets.stages": ("mediafm_assets.defs", "mediafm_assets.graph"),
    "mediafm_assets.definitions": ("mediafm_assets.graph", "mediafm_assets.settings", "mediafm_assets.stages"),
    "mediafm_assets.pages": (
        "mediafm_assets.pages",
        "mediafm_assets.graph",
        "mediafm_assets.settings",
        "mediafm_assets.stages",
        "resources",
        "model.ranking",
    ),
    "mediafm_assets.commands": PACKAGES,
}
HEAVY = ("torch", "transformers", "openai", "cv2", "av", "sklearn", "scenedetect", "pandas", "lancedb", "starlette")


def sources_of(room: str) -> list[Path]:
    path = PROJECT / room.replace(".", "/")
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def imported(program: str) -> Iterator[str]:
    """Dotted names of what a program imports, wherever in it: `from a.b import c` is a.b.c."""
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def is_of(name: str, rooms: tuple[str, ...]) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def crossings(room: str, program: str) -> list[str]:
    """What the program of that room imports and may not; relative imports, which hide where they lead, never."""
    own = [name for name in imported(program) if is_of(name, PACKAGES) or name.startswith(".")]
    dagster = [name for name in imported(program) if room == "model" and is_of(name, ("dagster",))]
    return [name for name in own if not is_of(name, MAY_IMPORT[room])] + dagster


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    found = {str(path): crossings(room, path.read_text()) for path in sources_of(room)}
    assert not {path: names for path, names in found.items() if names}


def test_every_source_file_stands_in_one_room() -> None:
    in_rooms = [path for room in MAY_IMPORT for path in sources_of(room)]
    everything = {path for package in PACKAGES for path in sources_of(package)}
    assert len(in_rooms) == len(set(in_rooms))
    assert everything - set(in_rooms) == {PROJECT / "mediafm_assets" / "__init__.py"}


@pytest.mark.parametrize(
    ("room", "program", "found"),
    [
        ("model", "def f():\n    import dagster as dg", ["dagster"]),
        ("model", "from resources.lake import DeltaLake", ["resources.lake.DeltaLake"]),
        ("resources", "from model import tasks, train", ["model.train"]),
        ("resources", "import model.fusion", ["model.fusion"]),
        ("mediafm_assets.graph", "from mediafm_assets import defs", ["mediafm_assets.defs"]),
        ("mediafm_assets.graph", "from mediafm_assets.settings import Fusion", ["mediafm_assets.settings.Fusion"]),
        ("mediafm_assets.defs", "from mediafm_assets.stages import all_stages", ["mediafm_assets.stages.all_stages"]),
        ("mediafm_assets.defs", "from ..commands import cli", ["..commands.cli"]),
        ("mediafm_assets.defs", "from model.fusion import fuse", []),
    ],
)
def test_a_crossing_is_found(room: str, program: str, found: list[str]) -> None:
    assert crossings(room, program) == found


def test_loading_the_code_location_imports_no_heavy_package() -> None:
    program = (
        "import sys; from mediafm_assets.definitions import defs; defs().resolve_implicit_global_asset_job_def();"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("leaf", "libraries"),
    [("model.precision", {"platform", "torch"}), ("model.tasks", set()), ("model.modalities", set())],
)
def test_a_module_that_all_may_import_is_a_leaf(leaf: str, libraries: set[str]) -> None:
    (path,) = sources_of(leaf)
    top = {name.split(".")[0] for name in imported(path.read_text())}
    assert top <= libraries | {"collections", "dataclasses", "typing"}
