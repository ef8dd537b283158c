"""Benchmarks are run by hand, and tests run none of them: what they import has to be where they say."""

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))
OURS = ("model", "resources", "mediafm_assets", "tests")


def is_there(module: str, name: str) -> bool:
    """Whether the name is one of the module's own, or a module in it."""
    if find_spec(module) is None:
        return False
    found = import_module(module)
    return hasattr(found, name) or (hasattr(found, "__path__") and find_spec(f"{module}.{name}") is not None)


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.name)
def test_every_name_that_a_benchmark_imports_from_the_project_is_there(file: Path) -> None:
    imports = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
    ours = [(node.module or "", alias.name) for node in imports for alias in node.names]
    assert not [(module, name) for module, name in ours if module.split(".")[0] in OURS and not is_there(module, name)]
