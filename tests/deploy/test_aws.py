"""The stack of deploy/aws on moto's servers: runs become tasks of the definitions that their stages are given.

moto starts no container: nothing here says that a task would work."""

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from dagster._core.test_utils import create_run_for_test, in_process_test_workspace, instance_for_test
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from resources.landing.events import Queue

AWS = Path(__file__).parents[2] / "deploy" / "aws"


@dataclass
class Stack:
    """What CloudFormation made of deploy/aws/mediafm.yaml."""

    cluster: str
    environment: dict[str, str]  # of the code server
    run_tags: dict[str, Any]


def spelt_as_ecs_does(value: Any) -> Any:
    """CloudFormation's `Name` and `LogConfiguration` as `name` and `logConfiguration`; what they hold stays."""
    if isinstance(value, list):
        return [spelt_as_ecs_does(item) for item in value]
    if isinstance(value, dict):
        return {f"{key[0].lower()}{key[1:]}": spelt_as_ecs_does(item) for key, item in value.items()}
    return value


@pytest.fixture
def stack(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """The stack, and this process as its control task."""
    import boto3
    from cfnlint.decode import decode

    ec2, ecs, cloudformation = boto3.client("ec2"), boto3.client("ecs"), boto3.client("cloudformation")
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]][:2]
    template, _ = decode(str(AWS / "mediafm.yaml"))
    parameters = {
        "Vpc": vpc,
        "Subnets": ",".join(subnets),
        "Image": "i",
        "GpuImage": "g",
        "WebserverClients": "10.0.0.0/8",
    }
    cloudformation.create_stack(
        StackName="mediafm",
        TemplateBody=json.dumps(template),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    (cluster,) = ecs.list_clusters()["clusterArns"]
    secret = boto3.client("secretsmanager").create_secret(Name="url", SecretString="postgresql://…")["ARN"]
    for arn in ecs.list_task_definitions()["taskDefinitionArns"]:  # which moto keeps in CloudFormation's spelling
        made = ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]
        kept = ("family", "networkMode", "cpu", "memory", "requiresCompatibilities", "executionRoleArn", "taskRoleArn")
        containers = spelt_as_ecs_does(made["containerDefinitions"])
        for container in containers:  # moto's CloudFormation makes no secrets
            container["secrets"] = [{"valueFrom": secret, **given} for given in container["secrets"] if given]
        ecs.register_task_definition(
            **{name: made[name] for name in kept if name in made}, containerDefinitions=containers
        )
    (machine,) = ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1)["Instances"]
    ecs.register_container_instance(
        cluster=cluster, instanceIdentityDocument=json.dumps({"instanceId": machine["InstanceId"]})
    )
    network = {"awsvpcConfiguration": {"subnets": subnets, "assignPublicIp": "DISABLED"}}
    control = ecs.run_task(
        cluster=cluster, taskDefinition="mediafm-control", launchType="FARGATE", networkConfiguration=network
    )["tasks"][0]
    containers = ecs.describe_task_definition(taskDefinition="mediafm-control")["taskDefinition"][
        "containerDefinitions"
    ]
    (code,) = [container for container in containers if container["name"] == "code"]
    environment = {item["name"]: item["value"] for item in code["environment"]}

    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            about = {"Cluster": cluster, "TaskARN": control["taskArn"], "Name": "daemon"}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(about).encode())

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("ECS_CONTAINER_METADATA_URI_V4", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("MEDIAFM_RUN_TASK", environment["MEDIAFM_RUN_TASK"])
    monkeypatch.setenv("MEDIAFM_LOGS_BUCKET", "films")
    yield Stack(cluster, environment, json.loads(environment["MEDIAFM_RUN_TAGS"]))
    server.shutdown()
    server.server_close()


def launched(stack: Stack, of: str) -> dict[str, Any]:
    """The task that the configured launcher starts for a run of that stage."""
    import boto3

    from mediafm_assets.settings import resources

    tags = resources({"MEDIAFM_RUN_TAGS": stack.environment["MEDIAFM_RUN_TAGS"]})["run_tags"].get(of, {})
    settings = yaml.safe_load((AWS / "dagster.yaml").read_text())
    with instance_for_test({"run_launcher": settings["run_launcher"]}) as instance:
        graph = LoadableTargetOrigin(module_name="mediafm_assets.definitions")
        with in_process_test_workspace(instance, graph) as workspace:
            (location,) = workspace.code_locations
            (repository,) = location.get_repositories().values()
            job = repository.get_full_job("__ASSET_JOB")
            run = create_run_for_test(
                instance,
                job.name,
                tags=tags,
                remote_job_origin=job.get_remote_origin(),
                job_code_origin=job.get_python_origin(),
            )
            instance.launch_run(run.run_id, workspace)
            arn = instance.get_run_by_id(run.run_id).tags["ecs/task_arn"]
    (task,) = boto3.client("ecs").describe_tasks(cluster=stack.cluster, tasks=[arn])["tasks"]
    return task


@pytest.mark.parametrize(
    ("of", "definition"), [("title", "mediafm-cpu"), ("probes", "mediafm-cpu"), ("encoder", "mediafm-gpu")]
)
def test_a_run_becomes_a_task_of_its_stages_definition(stack: Stack, of: str, definition: str) -> None:
    task = launched(stack, of)
    assert f"task-definition/{definition}:" in task["taskDefinitionArn"]
    (run,) = task["overrides"]["containerOverrides"]
    assert run["name"] == "run"
    assert "execute_run" in run["command"]
    assert "postgresql" not in json.dumps(run), "the database's URL is a secret of the definition, not of the command"


def test_what_is_dropped_into_the_bucket_is_told_to_the_code_servers_queue(stack: Stack) -> None:
    import boto3
    from cfnlint.decode import decode

    s3, sqs = boto3.client("s3"), boto3.client("sqs")
    landing, queue = urlsplit(stack.environment["MEDIAFM_LANDING"]), stack.environment["MEDIAFM_LANDING_QUEUE"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    template, _ = decode(str(AWS / "mediafm.yaml"))
    notified = template["Resources"]["Bucket"]["Properties"]["NotificationConfiguration"]["QueueConfigurations"]
    told = [
        {"QueueArn": arn, "Events": [of["Event"]], "Filter": {"Key": {"FilterRules": of["Filter"]["S3Key"]["Rules"]}}}
        for of in notified  # of which moto's CloudFormation makes nothing
    ]
    s3.put_bucket_notification_configuration(
        Bucket=landing.netloc, NotificationConfiguration={"QueueConfigurations": told}
    )
    root = f"{landing.path[1:]}/titles/"
    for key in (f"{root}a/title.json", f"{landing.path[1:]}/labels/clip_tone.csv", "lake/titles/b/1"):
        s3.put_object(Bucket=landing.netloc, Key=key, Body=b"{}")
    heard = Queue(queue).receive(landing.netloc, root)
    assert (heard.folders, heard.refused, heard.more) == ({"a"}, [], False)
