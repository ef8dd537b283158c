"""The files of deploy/, as far as they can be checked where nothing of them can be built."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"


def lint(tool: str, *arguments: object) -> str:
    """What a linter of the environment finds, "" for nothing."""
    command = [Path(sys.executable).with_name(tool), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_shell_scripts_pass_shellcheck() -> None:
    assert lint("shellcheck", *DEPLOY.glob("*.sh"), PROJECT / ".ci" / "run") == ""


def test_a_deployments_instance_is_the_projects_but_for_where_runs_and_logs_are_kept() -> None:
    project, deployed = read(PROJECT / "dagster.yaml"), read(DEPLOY / "dagster.yaml")
    for own in ("storage", "compute_logs"):
        project.pop(own, None)
        deployed.pop(own)
    assert deployed == project
