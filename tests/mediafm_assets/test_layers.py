"""The house's walls: who imports whom, and what loading the code location costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
FORBIDDEN = {
    "model": {"dagster", "resources", "mediafm_assets"},
    "resources": {"model", "mediafm_assets"},
    "mediafm_assets": set(),
}
SHARED = (
    "model.precision",
    "model.tasks",
    "model.modalities",
)  # leaves: docs/decisions.md
HEAVY = ("torch", "transformers", "openai", "cv2", "av", "sklearn", "scenedetect", "pandas")


def imported_packages(source: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level and node.module not in SHARED:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    sources = list((PROJECT / package).rglob("*.py"))
    assert sources
    crossings = {str(path): imported_packages(path) & FORBIDDEN[package] for path in sources}
    assert not {path: names for path, names in crossings.items() if names}


def test_loading_the_code_location_imports_no_heavy_package() -> None:
    program = (
        "import sys; from mediafm_assets.definitions import defs; defs().resolve_implicit_global_asset_job_def();"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


def test_the_module_that_all_may_import_is_a_leaf() -> None:
    assert imported_packages(PROJECT / "model" / "precision.py") <= {"platform", "torch"}
