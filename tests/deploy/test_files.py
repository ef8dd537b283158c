"""The files of deploy/, as far as they can be checked where nothing of them can be built."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._config.validate import process_config
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mediafm_assets.settings import resources

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


def test_the_image_passes_hadolint() -> None:
    assert lint("hadolint", DEPLOY / "Dockerfile") == ""


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    copied = [
        line.split()[1:-1] for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")
    ]
    sources = {part for parts in copied for part in parts if not part.startswith(("--", "/"))}
    kept = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sources == kept
    assert all((PROJECT / source).exists() for source in sources)


def locked(path: Path) -> dict[str, tuple[str, int]]:
    """Version and number of hashes of each package in a lock."""
    packages = re.findall(
        r"^([a-z0-9-]+)==([^ ;]+)[^\n]*((?:\n    --hash=sha256:[0-9a-f]{64}[^\n]*)*)", path.read_text(), re.M
    )
    return {name: (version, hashes.count("--hash")) for name, version, hashes in packages}


def test_what_is_installed_is_locked_with_hashes_but_pytorch_and_both_locks_agree() -> None:
    run, everything = locked(PROJECT / "constraints.txt"), locked(PROJECT / "constraints-dev.txt")
    assert run.items() <= everything.items()
    assert min(hashes for _, hashes in everything.values()) > 0
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = {
        part: {canonicalize_name(Requirement(one).name) for one in wanted} - {"torch", "mediafm"}
        for part, wanted in {"run": [*project["dependencies"], *extras["deploy"]], "dev": extras["dev"]}.items()
    }
    assert names["run"] <= run.keys(), "make lock"
    assert names["dev"] <= everything.keys(), "make lock"


def test_compose_files_keep_the_specification() -> None:
    files = sorted(DEPLOY.glob("compose*.yaml"))
    assert lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *files) == ""


def test_the_stack_passes_cfn_lint() -> None:
    assert lint("cfn-lint", DEPLOY / "aws" / "mediafm.yaml") == ""


def instance(path: Path) -> Any:
    """What the instance's file says, but for where runs and logs are kept."""
    said = read(path)
    for own in ("storage", "compute_logs"):
        said.pop(own, None)
    return said


def test_a_deployments_instance_is_the_projects_but_for_where_runs_and_logs_are_kept() -> None:
    assert instance(DEPLOY / "dagster.yaml") == instance(PROJECT / "dagster.yaml")


def test_the_instance_on_aws_is_that_one_but_for_the_launcher_and_what_follows_from_many_machines() -> None:
    assert read(DEPLOY / "aws" / "dagster.yaml")["compute_logs"] == read(DEPLOY / "dagster.yaml")["compute_logs"]
    here, there = instance(DEPLOY / "dagster.yaml"), instance(DEPLOY / "aws" / "dagster.yaml")
    for own in ("run_launcher", "run_monitoring"):
        here.pop(own, None)
        there.pop(own)
    here["concurrency"].pop("runs")
    there["concurrency"].pop("runs")
    assert there == here


@pytest.mark.parametrize(("stage", "pool", "gpus"), [("title", "cpu", None), ("encoder", "gpu", "1")])
def test_a_stages_pod_gets_the_resources_and_nodes_that_the_charts_values_give_it(
    stage: str, pool: str, gpus: str | None
) -> None:
    k8s = pytest.importorskip("dagster_k8s.job", reason="dagster-k8s is not installed: pip install '.[deploy]'")
    values = read(DEPLOY / "kubernetes" / "values.yaml")
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    tags = resources({"MEDIAFM_RUN_TAGS": deployment["env"]["MEDIAFM_RUN_TAGS"]})["run_tags"][stage]
    config = k8s.DagsterK8sJobConfig(job_image="image", dagster_home="/dagster")
    job = k8s.construct_dagster_k8s_job(
        config, ["dagster", "api", "execute_run"], "run", k8s.get_user_defined_k8s_config(tags)
    )
    pod = job.spec.template.spec
    (container,) = pod.containers
    assert pod.node_selector == {"mediafm/pool": pool}
    assert (container.resources.limits or {}).get("nvidia.com/gpu") == gpus
    assert container.resources.requests.keys() == {"cpu", "memory"}


def test_the_charts_launcher_is_configured_as_dagster_takes_it() -> None:
    k8s = pytest.importorskip("dagster_k8s", reason="dagster-k8s is not installed: pip install '.[deploy]'")
    said = read(DEPLOY / "kubernetes" / "values.yaml")["runLauncher"]["config"]["k8sRunLauncher"]
    config = {
        "service_account_name": "mediafm",
        "instance_config_map": "mediafm-instance",  # as the chart fills it in
        "dagster_home": "/opt/dagster/dagster_home",
        "load_incluster_config": said["loadInclusterConfig"],
        "image_pull_policy": said["imagePullPolicy"],
        "resources": said["resources"],
        "run_k8s_config": {
            "pod_spec_config": said["runK8sConfig"]["podSpecConfig"],
            "job_spec_config": said["runK8sConfig"]["jobSpecConfig"],
        },
    }
    checked = process_config(k8s.K8sRunLauncher.config_type(), config)
    assert checked.success, checked.errors
