"""Deploying to an AWS account, again, otherwise, where it may not, and taking it away."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aws_account import REGION, AwsAccount, layer_bytes
from click.testing import CliRunner
from moto.server import ThreadedMotoServer

from cirrus_fast import __version__
from cirrus_fast.backend.deployment.account import Account, DeniedError
from cirrus_fast.backend.deployment.layer_zip import make_layer, read_layer
from cirrus_fast.backend.deployment.plan import Plan
from cirrus_fast.backend.deployment.settings import Settings
from cirrus_fast.backend.deployment.undeploy import plan_removal
from cirrus_fast.backend.layer import running_python
from cirrus_fast.cli import cli
from cirrus_fast.errors import DeploymentError, LayerError, OptionError

ROLE = "cirrus-fast-us-east-1"


def actions(plan: Plan) -> dict[str, str]:
    return {step.what: step.action for step in plan.steps}


def changed(plan: Plan) -> dict[str, str]:
    return {step.what: step.reason for step in plan.changes}


def role_policy(aws: AwsAccount) -> dict[str, Any]:
    found = aws.client("iam").get_role_policy(RoleName=ROLE, PolicyName="cirrus-fast")
    return {statement["Sid"]: statement for statement in found["PolicyDocument"]["Statement"]}


def function_arn(aws: AwsAccount) -> str:
    return str(aws.function()["Configuration"]["FunctionArn"])


@pytest.fixture
def vpc(aws: AwsAccount) -> dict[str, Any]:
    ec2 = aws.client("ec2")
    made = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=made, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(VpcId=made, GroupName="workers", Description="w")["GroupId"]
    return {"vpc": made, "subnets": (subnet,), "security_groups": (group,)}


# What is made


def test_makes_all_that_workers_need(aws: AwsAccount) -> None:
    plan = aws.deploy(memory=3008, tmp=1024, environment={"LEVEL": "debug"}, tags={"team": "ads"})
    assert set(actions(plan).values()) == {"create"}
    found = aws.function()
    configuration = found["Configuration"]
    assert configuration["Handler"] == "cirrus_fast.runtime.handler.handler"
    assert configuration["Runtime"] == "python3.12"
    assert configuration["Architectures"] == ["x86_64"]
    assert (configuration["MemorySize"], configuration["Timeout"]) == (3008, 900)
    assert configuration["EphemeralStorage"] == {"Size": 1024}
    assert configuration["Environment"]["Variables"] == {"LEVEL": "debug"}
    assert configuration["Layers"][0]["Arn"].endswith(":layer:cirrus-fast:1")
    assert configuration["CodeSize"] < 500  # all code is in the layer
    assert found["Tags"]["cirrus-fast:version"] == __version__
    assert found["Tags"]["team"] == "ads"
    (layer,) = aws.client("lambda").list_layer_versions(LayerName="cirrus-fast")["LayerVersions"]
    assert layer["CompatibleRuntimes"] == ["python3.12"]
    (group,) = aws.client("logs").describe_log_groups()["logGroups"]
    assert (group["logGroupName"], group["retentionInDays"]) == ("/aws/lambda/cirrus-fast", 14)
    role = aws.client("iam").get_role(RoleName=ROLE)["Role"]
    assert role["AssumeRolePolicyDocument"]["Statement"] == [
        {
            "Sid": "Lambda",
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ]
    assert {tag["Key"] for tag in role["Tags"]} >= {"cirrus-fast:deployment", "team"}


def test_again_changes_nothing(aws: AwsAccount, vpc: dict[str, Any]) -> None:
    given: dict[str, Any] = {
        "subnets": vpc["subnets"],
        "security_groups": vpc["security_groups"],
        "environment": {"A1": "b"},
        "reserved_concurrency": 50,
        "tags": {"team": "ads"},
        "tmp": 2048,
        "kms_keys": ("arn:aws:kms:us-east-1:123456789012:key/abc",),
        "secrets": ("arn:aws:ssm:us-east-1:123456789012:parameter/redis",),
    }
    aws.deploy(**given)
    aws.asked.clear()
    plan = aws.deploy(**given)
    assert changed(plan) == {}
    assert aws.writes == []


def test_a_plan_alone_changes_nothing(aws: AwsAccount) -> None:
    plan = aws.plan(reserved_concurrency=3)
    assert len(plan.changes) == 6
    assert aws.writes == []
    assert aws.client("lambda").list_functions()["Functions"] == []


@pytest.mark.parametrize(
    ("settings", "what", "operations"),
    [
        ({"memory": 4096}, "memory 2048 -> 4096", ["lambda:UpdateFunctionConfiguration"]),
        ({"environment": {"A1": "2"}}, "environment", ["lambda:UpdateFunctionConfiguration"]),
        ({"tmp": 1024}, "tmp 512 -> 1024", ["lambda:UpdateFunctionConfiguration"]),
        ({"log_retention": 30}, "14 -> 30 days", ["logs:PutRetentionPolicy"]),
        (
            {"reserved_concurrency": 7},
            "what the account has -> 7 workers",
            ["lambda:PutFunctionConcurrency"],
        ),
        ({"data": ("s3://data/other",)}, "says something else", ["iam:PutRolePolicy"]),
        (
            {"tags": {"team": "ads"}},
            "team",
            ["iam:TagRole", "logs:TagResource", "lambda:TagResource"],
        ),
    ],
)
def test_only_what_differs_is_changed(
    aws: AwsAccount, settings: dict[str, Any], what: str, operations: list[str]
) -> None:
    aws.deploy()
    aws.asked.clear()
    plan = aws.deploy(**settings)
    assert what in " ".join(changed(plan).values())
    assert aws.writes == operations
    if "tmp" not in settings:  # which this account keeps as it was made
        assert changed(aws.plan(**settings)) == {}


def test_a_new_layer_takes_the_place_of_the_old_one(aws: AwsAccount) -> None:
    aws.deploy()
    plan = aws.deploy(layer=aws.layer(layer_bytes(more="y")))
    assert changed(plan)["function cirrus-fast"] == "layer cirrus-fast:1 -> a new one"
    assert changed(plan)["layer cirrus-fast:1"].startswith("an older one of this deployment")
    (layer,) = aws.client("lambda").list_layer_versions(LayerName="cirrus-fast")["LayerVersions"]
    assert layer["Version"] == 2
    assert aws.function()["Configuration"]["Layers"][0]["Arn"] == layer["LayerVersionArn"]


def test_versions_of_a_layer_that_deploy_did_not_publish_stay(aws: AwsAccount) -> None:
    client = aws.client("lambda")
    by_hand = {"LayerName": "cirrus-fast", "Content": {"ZipFile": layer_bytes()}}
    client.publish_layer_version(**by_hand, Description="by hand")
    aws.deploy()
    aws.deploy(layer=aws.layer(layer_bytes(more="y")))
    plan_removal("cirrus-fast", aws.account()).apply()
    (layer,) = client.list_layer_versions(LayerName="cirrus-fast")["LayerVersions"]
    assert layer["Description"] == "by hand"


def test_another_architecture_changes_code_and_configuration(aws: AwsAccount) -> None:
    aws.deploy()
    aws.asked.clear()
    arm = aws.layer(layer_bytes(python="3.13", machine="aarch64"))
    aws.deploy(layer=arm, arch="arm64", python="3.13")
    sent = dict(aws.asked)
    assert sent["lambda:UpdateFunctionCode"]["Architectures"] == ["arm64"]
    assert sent["lambda:UpdateFunctionConfiguration"]["Runtime"] == "python3.13"


def test_into_a_vpc_and_out_again(aws: AwsAccount, vpc: dict[str, Any]) -> None:
    inside = {"subnets": vpc["subnets"], "security_groups": vpc["security_groups"]}
    plan = aws.deploy(**inside)
    assert "create-vpc-endpoint" in plan.notes[0]  # there is none yet
    assert aws.function()["Configuration"]["VpcConfig"]["SubnetIds"] == list(vpc["subnets"])
    assert {"Network", "NotByTheCode"} <= set(role_policy(aws))
    aws.deploy()
    assert not aws.function()["Configuration"].get("VpcConfig", {}).get("SubnetIds")
    assert "Network" not in role_policy(aws)


def test_a_role_of_ones_own_is_used_as_it_is(aws: AwsAccount) -> None:
    made = aws.client("iam").create_role(Path="/p/", RoleName="own", AssumeRolePolicyDocument="{}")
    own = made["Role"]["Arn"]
    plan = aws.deploy(role=own)
    assert actions(plan)[f"role {own}"] == "keep"
    assert not [one for one in aws.operations if one.startswith("iam:")]
    assert aws.function()["Configuration"]["Role"] == own


def test_a_role_is_bounded_as_asked(aws: AwsAccount) -> None:
    bound = "arn:aws:iam::123456789012:policy/bound"
    statement = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": statement})
    aws.client("iam").create_policy(PolicyName="bound", PolicyDocument=document)
    aws.deploy(permissions_boundary=bound)
    role = aws.client("iam").get_role(RoleName=ROLE)["Role"]
    assert role["PermissionsBoundary"]["PermissionsBoundaryArn"] == bound
    assert changed(aws.plan(permissions_boundary=bound)) == {}
    with pytest.raises(DeploymentError, match="undeploy first"):
        aws.plan()


def test_a_role_that_others_may_act_as_is_put_right(aws: AwsAccount) -> None:
    aws.deploy()
    iam = aws.client("iam")
    trust = iam.get_role(RoleName=ROLE)["Role"]["AssumeRolePolicyDocument"]
    trust["Statement"][0]["Principal"]["Service"] = "ec2.amazonaws.com"
    iam.update_assume_role_policy(RoleName=ROLE, PolicyDocument=json.dumps(trust))
    assert "others may act as it" in changed(aws.deploy())[f"role {ROLE}"]
    assert changed(aws.plan()) == {}


def test_a_role_that_is_gone_is_made_again_and_told_to_the_function(aws: AwsAccount) -> None:
    aws.deploy()
    iam = aws.client("iam")
    iam.delete_role_policy(RoleName=ROLE, PolicyName="cirrus-fast")
    iam.delete_role(RoleName=ROLE)
    aws.asked.clear()
    aws.deploy()
    assert aws.writes == [
        "iam:CreateRole",
        "iam:PutRolePolicy",
        "lambda:UpdateFunctionConfiguration",
    ]
    assert changed(aws.plan()) == {}


def test_code_that_somebody_replaced_is_put_right(aws: AwsAccount) -> None:
    aws.deploy()
    aws.client("lambda").update_function_code(FunctionName="cirrus-fast", ZipFile=layer_bytes())
    assert list(changed(aws.deploy())) == ["code of function cirrus-fast"]
    assert changed(aws.plan()) == {}


# What the function may do


def test_the_function_may_do_what_it_must_and_no_more(aws: AwsAccount) -> None:
    secret = "arn:aws:secretsmanager:us-east-1:123456789012:secret:redis-AbCdEf"
    aws.deploy(data=("s3://data/a", "s3://whole"), read_only=("s3://data/b",), secrets=(secret,))
    policy = role_policy(aws)
    assert set(policy) == {
        "Logs",
        "ReadData",
        "WriteData",
        "ListBuckets",
        "ListPrefixes1",
        "Secrets",
    }
    assert policy["ReadData"]["Resource"] == [
        "arn:aws:s3:::data/a",
        "arn:aws:s3:::data/a/*",
        "arn:aws:s3:::whole/*",
        "arn:aws:s3:::data/b",
        "arn:aws:s3:::data/b/*",
    ]
    assert policy["WriteData"]["Resource"] == ["arn:aws:s3:::data/a/*", "arn:aws:s3:::whole/*"]
    assert policy["ListBuckets"]["Resource"] == ["arn:aws:s3:::whole"]
    assert policy["ListPrefixes1"]["Condition"] == {
        "StringLikeIfExists": {"s3:prefix": ["a/*", "b/*"]}
    }
    logs = "arn:aws:logs:us-east-1:123456789012:log-group:/aws/lambda/cirrus-fast:*"
    assert policy["Logs"]["Resource"] == [logs]
    assert policy["Secrets"]["Resource"] == [secret]
    assert not any("*" in statement["Resource"] for statement in policy.values())


@pytest.fixture
def whole(aws: AwsAccount) -> None:
    aws.client("s3").create_bucket(Bucket="whole")


@pytest.fixture(autouse=True)
def _whole(request: pytest.FixtureRequest) -> None:
    if "aws" in request.fixturenames:
        request.getfixturevalue("whole")


# What somebody else has


def test_a_function_of_somebody_elses_is_refused(aws: AwsAccount) -> None:
    aws.deploy()
    aws.client("lambda").untag_resource(
        Resource=function_arn(aws), TagKeys=["cirrus-fast:deployment"]
    )
    for refused in (aws.plan, lambda: plan_removal("cirrus-fast", aws.account())):
        aws.asked.clear()
        with pytest.raises(DeploymentError, match="cirrus-fast did not make it"):
            refused()
        assert aws.writes == []


def test_a_deployment_of_another_owner_is_refused_unless_one_says_so(aws: AwsAccount) -> None:
    aws.deploy(owner="user/alice")
    with pytest.raises(DeploymentError, match=r"is user/alice's .* --owner user/alice"):
        aws.deploy(owner="user/bob")
    assert changed(aws.deploy(owner="user/alice")) == {}
    with pytest.raises(DeploymentError, match="is user/alice's"):
        plan_removal("cirrus-fast", aws.account())


@pytest.mark.parametrize("what", ["role", "log group"])
def test_a_role_or_log_group_that_was_there_is_refused(aws: AwsAccount, what: str) -> None:
    if what == "role":
        aws.client("iam").create_role(RoleName=ROLE, AssumeRolePolicyDocument="{}")
    else:
        aws.client("logs").create_log_group(logGroupName="/aws/lambda/cirrus-fast")
    with pytest.raises(DeploymentError, match=f"{what} .* did not make it"):
        aws.deploy()
    assert aws.writes == []


# What goes wrong on the way


def test_waits_for_a_new_role_to_be_known(aws: AwsAccount) -> None:
    left = iter(range(3))
    text = "The role defined for the function cannot be assumed by Lambda."

    def refuse(operation: str, given: Mapping[str, Any]) -> tuple[str, str] | None:
        if operation == "lambda:CreateFunction" and next(left, None) is not None:
            return "InvalidParameterValueException", text
        return None

    aws.refuse = refuse
    aws.deploy()
    assert aws.operations.count("lambda:CreateFunction") == 4
    assert aws.slept == [1, 2, 3]
    assert aws.function()["Configuration"]["State"] == "Active"


def test_does_not_wait_for_ever_for_a_role(aws: AwsAccount) -> None:
    text = "The role defined for the function cannot be assumed by Lambda."
    aws.refuse = lambda operation, _: (
        ("InvalidParameterValueException", text) if operation == "lambda:CreateFunction" else None
    )
    with pytest.raises(DeploymentError, match=r"still cannot use .*role/cirrus-fast-us-east-1"):
        aws.deploy()
    assert 60 < sum(aws.slept) < 120
    aws.refuse = lambda _operation, _given: None
    assert list(changed(aws.deploy())) == ["function cirrus-fast"]  # goes on from there


def test_another_wrong_parameter_is_not_waited_for(aws: AwsAccount) -> None:
    aws.refuse = lambda operation, _: (
        ("InvalidParameterValueException", "MemorySize is too large")
        if operation == "lambda:CreateFunction"
        else None
    )
    with pytest.raises(DeploymentError, match="MemorySize is too large"):
        aws.deploy()
    assert aws.slept == []


def test_waits_until_the_function_is_active(aws: AwsAccount) -> None:
    states = iter(["Pending", "Pending", "Active"])

    def look(operation: str, given: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if operation == "lambda:GetFunctionConfiguration" and "lambda:CreateFunction" in (
            aws.operations
        ):
            return {"State": next(states)}
        return None

    aws.refuse = look
    aws.deploy()
    assert aws.slept == [0.5, 1]


def test_says_why_a_function_does_not_become_active(aws: AwsAccount) -> None:
    aws.refuse = lambda operation, _: (
        {"State": "Failed", "StateReason": "no free addresses in the subnet"}
        if operation == "lambda:GetFunctionConfiguration"
        and "lambda:CreateFunction" in aws.operations
        else None
    )
    with pytest.raises(DeploymentError, match="no free addresses in the subnet"):
        aws.deploy()


def test_waits_for_another_update_to_end(aws: AwsAccount) -> None:
    aws.deploy()
    left = iter(range(2))

    def refuse(operation: str, given: Mapping[str, Any]) -> tuple[str, str] | None:
        if operation == "lambda:UpdateFunctionConfiguration" and next(left, None) is not None:
            return "ResourceConflictException", "An update is in progress for resource: x"
        return None

    aws.refuse = refuse
    aws.deploy(memory=4096)
    assert aws.slept == [1, 1]
    assert aws.function()["Configuration"]["MemorySize"] == 4096


def test_what_was_published_is_compared_with_what_was_sent(aws: AwsAccount) -> None:
    aws.refuse = lambda operation, _: (
        {"Content": {"CodeSha256": "other"}, "LayerVersionArn": "arn"}
        if operation == "lambda:PublishLayerVersion"
        else None
    )
    with pytest.raises(DeploymentError, match="not what was sent"):
        aws.deploy()


# What is wrong from the start


def test_a_bucket_that_is_not_there_is_refused(aws: AwsAccount) -> None:
    with pytest.raises(DeploymentError, match=r"s3://nowhere: there is no such bucket"):
        aws.deploy(data=("s3://nowhere",))
    assert aws.writes == []


def test_a_bucket_in_another_region_is_noted(aws: AwsAccount) -> None:
    where = {"LocationConstraint": "eu-west-1"}
    aws.client("s3", "eu-west-1").create_bucket(Bucket="far-away", CreateBucketConfiguration=where)
    (note,) = aws.plan(data=("s3://far-away",)).notes
    assert "s3://far-away is in eu-west-1 and the function in us-east-1" in note


def test_a_region_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeploymentError, match=r"us-esat-1: .* did you mean us-"):
        Account("us-esat-1")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null/none")
    with pytest.raises(DeploymentError, match=r"give --region, or set AWS_REGION"):
        Account()


def test_subnets_that_are_not_there_are_refused(aws: AwsAccount, vpc: dict[str, Any]) -> None:
    with pytest.raises(DeploymentError, match=r"subnet-0123abcd.*us-east-1"):
        aws.plan(subnets=("subnet-0123abcd",), security_groups=vpc["security_groups"])
    other = aws.client("ec2").create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    group = aws.client("ec2").create_security_group(
        VpcId=other, GroupName="other", Description="o"
    )["GroupId"]
    with pytest.raises(DeploymentError, match=f"{group}: of another VPC"):
        aws.plan(subnets=vpc["subnets"], security_groups=(group,))


@pytest.mark.parametrize(
    ("content", "settings", "match"),
    [
        (layer_bytes(version="9.9.9"), {}, f"cirrus-fast 9.9.9, and this is {__version__}"),
        (layer_bytes(python="3.13"), {}, "for Python 3.13 on x86_64, and the function has 3.12"),
        (layer_bytes(machine="aarch64"), {}, "3.12 on arm64, and the function has 3.12 on x86_64"),
    ],
)
def test_a_layer_for_something_else_is_refused(
    aws: AwsAccount, content: bytes, settings: dict[str, Any], match: str
) -> None:
    with pytest.raises(DeploymentError, match=match):
        aws.plan(layer=aws.layer(content), **settings)
    assert aws.asked == []


def test_a_built_layer_is_known_for_what_it_is(
    layer_zip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read_layer(layer_zip)
    arch = {"x86_64": "x86_64", "aarch64": "arm64"}[platform.machine()]
    assert (found.version, found.python, found.arch) == (__version__, running_python(), arch)
    build = "cirrus_fast.backend.deployment.layer_zip.build_layer"
    monkeypatch.setattr(build, lambda path, **_: shutil.copy(layer_zip, path))
    assert make_layer("3.12", "x86_64") == found


def test_what_is_no_layer_is_refused(aws: AwsAccount, tmp_path: Any) -> None:
    with pytest.raises(LayerError, match="cannot be read as a zip"):
        aws.layer(b"PK no zip")
    with pytest.raises(LayerError, match="has no cirrus_fast"):
        aws.layer(layer_bytes(machine="riscv64"))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"name": "1st"}, "name='1st'"),
        ({"name": "a" * 50}, "up to 48 letters"),
        ({"data": ()}, "data: missing"),
        ({"data": ("/home/x",)}, "give s3://bucket/prefix"),
        ({"data": ("s3://Bucket/x",)}, "no name of a bucket"),
        ({"data": ("s3://bucket/a*",)}, "no \\*"),
        ({"memory": 127}, "128 to 10,240 MB"),
        ({"tmp": 511}, "512 to 10,240"),
        ({"arch": "arm"}, "did you mean arm64"),
        ({"python": "3.9"}, "python='3.9'"),
        ({"subnets": ("subnet-1",)}, "needs both"),
        ({"subnets": ("net",), "security_groups": ("sg-1",)}, "subnet-0123abcd"),
        ({"secrets": ("hunter2",)}, "must look like arn:aws:secretsmanager"),
        ({"kms_keys": ("alias/x",)}, "key/ID"),
        ({"role": "admin"}, "role/NAME"),
        ({"log_retention": 13}, "CloudWatch has 1, 3, 5"),
        ({"reserved_concurrency": 0}, "1 to 100,000"),
        ({"environment": {"AWS_REGION": "x"}}, "set by Lambda"),
        ({"environment": {"REDIS_PASSWORD": "x"}}, "looks like a secret"),
        ({"environment": {"9": "x"}}, "no name of a variable"),
        ({"environment": {"BIG": "x" * 5000}}, "4,096 bytes"),
        ({"tags": {"cirrus-fast:owner": "me"}}, "not yours to set"),
        ({"tags": {"a": "<"}}, "letters, digits"),
        ({"owner": "x" * 300}, "too long"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        Settings(**({"data": ("s3://data",)} | settings))


def test_names_fit_wherever_they_are_used() -> None:
    longest = Settings(data=("s3://data",), name="a" * 49)
    assert len(longest.role_name("ap-southeast-1")) == 64


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch, aws: AwsAccount) -> None:
    aws.refuse = lambda operation, _: ("ExpiredToken", "The security token is expired")
    with pytest.raises(DeploymentError, match=r"does not take these credentials.*aws sso login"):
        aws.plan()


def test_an_action_that_is_not_allowed_is_named(aws: AwsAccount) -> None:
    text = (
        "User: arn:aws:iam::1:user/x is not authorized to perform: iam:PassRole on resource: "
        "arn:aws:iam::1:role/y because no identity-based policy allows the iam:PassRole action"
    )
    aws.refuse = lambda operation, _: (
        ("AccessDeniedException", text) if operation == "lambda:CreateFunction" else None
    )
    with pytest.raises(DeniedError, match=r"not allowed: iam:PassRole .*--show-policies") as caught:
        aws.deploy()
    assert caught.value.action == "iam:PassRole"
    assert caught.value.__notes__ == ["while going to create function cirrus-fast"]


# Taking it away


def test_takes_away_what_was_made_and_nothing_else(aws: AwsAccount) -> None:
    aws.client("s3").put_object(Bucket="data", Key="rows/x", Body=b"1")
    aws.deploy(name="other")
    aws.deploy(reserved_concurrency=3)
    aws.asked.clear()
    plan = plan_removal("cirrus-fast", aws.account())
    assert aws.writes == []
    plan.apply()
    assert aws.writes == [
        "lambda:DeleteFunction",
        "logs:DeleteLogGroup",
        "lambda:DeleteLayerVersion",
        "iam:DeleteRolePolicy",
        "iam:DeleteRole",
    ]
    assert [one["FunctionName"] for one in aws.client("lambda").list_functions()["Functions"]] == [
        "other"
    ]
    assert [one["RoleName"] for one in aws.client("iam").list_roles()["Roles"]] == [
        "other-us-east-1"
    ]
    assert changed(aws.plan(name="other")) == {}
    assert changed(plan_removal("cirrus-fast", aws.account())) == {}
    assert aws.client("s3").get_object(Bucket="data", Key="rows/x")
    assert "data in S3" in plan.notes[0]


def test_logs_stay_where_asked_and_are_found_again(aws: AwsAccount) -> None:
    aws.deploy()
    plan_removal("cirrus-fast", aws.account(), keep_logs=True).apply()
    assert aws.client("logs").describe_log_groups()["logGroups"]
    assert actions(aws.deploy())["log group /aws/lambda/cirrus-fast"] == "keep"


def test_a_deployment_is_of_one_region(aws: AwsAccount) -> None:
    aws.deploy()
    aws.deploy(account=aws.account("eu-west-1"))
    plan = plan_removal("cirrus-fast", aws.account("eu-west-1"))
    plan.apply()
    assert aws.function()
    assert actions(plan_removal("cirrus-fast", aws.account("us-west-2"))) == {
        "function cirrus-fast": "keep",
        "log group /aws/lambda/cirrus-fast": "keep",
        "layer cirrus-fast": "keep",
        "role cirrus-fast-us-west-2": "keep",
    }


# The commands


@pytest.fixture
def run(aws: AwsAccount) -> Any:
    aws.layer()  # layer.zip

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(cli, [*arguments])

    return call


def test_commands_show_and_do(aws: AwsAccount, run: Any, tmp_path: Any) -> None:
    layer = ["--layer", str(tmp_path / "layer.zip"), "--region", REGION]
    dry = run("deploy", "--data", "s3://data/rows", *layer, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "6 changes" not in dry.output
    assert "5 changes to make; nothing was changed" in dry.stdout
    assert '"Sid": "ReadData"' in dry.stdout
    assert aws.client("lambda").list_functions()["Functions"] == []
    done = run("deploy", "--data", "s3://data/rows", "--memory", "3008", *layer)
    assert done.exit_code == 0, done.output
    assert "create  function cirrus-fast" in done.stdout
    assert "5 changes made" in done.stdout
    again = run("deploy", "--data", "s3://data/rows", "--memory", "3008", *layer, "--json")
    assert json.loads(again.stdout)["changes"] == 0
    gone = run("undeploy", "--region", REGION)
    assert gone.exit_code == 0, gone.output
    assert aws.client("lambda").list_functions()["Functions"] == []


def test_commands_refuse_in_one_line(aws: AwsAccount, run: Any, tmp_path: Any) -> None:
    layer = ["--layer", str(tmp_path / "layer.zip")]
    for arguments, text in (
        (["--data", "s3://data", *layer, "--region", "mars"], "mars: no region"),
        (["--data", "data", *layer, "--region", REGION], "workers on Lambda reach S3"),
        ([*layer, "--region", REGION], "data: missing"),
        (["--data", "s3://data", "--env", "X", *layer], "must be NAME=VALUE"),
        (["--data", "s3://data", *layer, "--no-index"], "are for building"),
    ):
        outcome = run("deploy", *arguments)
        assert outcome.exit_code != 0
        assert outcome.stderr.count("\n") == 1, outcome.stderr
        assert text in outcome.stderr


def test_commands_speak_to_a_server(aws: AwsAccount, tmp_path: Any) -> None:
    """Over HTTP, as to AWS."""
    aws.layer()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        environment = {**os.environ, "AWS_ENDPOINT_URL": url, "AWS_REGION": REGION}
        urllib.request.urlopen(urllib.request.Request(f"{url}/data", method="PUT")).close()

        def run(*arguments: str) -> str:
            command = [sys.executable, "-m", "cirrus_fast", *arguments]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return done.stdout

        layer = ["--layer", str(tmp_path / "layer.zip"), "--data", "s3://data"]
        assert "6 changes made" in run("deploy", *layer, "--reserved-concurrency", "5")
        assert "0 changes made" in run("deploy", *layer, "--reserved-concurrency", "5")
        assert "memory 2048 -> 512" in run("deploy", *layer, "--memory", "512")
        assert "4 changes made" in run("undeploy")
        assert "0 changes made" in run("undeploy")
    finally:
        server.stop()


def test_policies_are_shown_without_asking_aws(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Account, "ask", None)
    shown = run("deploy", "--data", "s3://data/rows", "--region", REGION, "--show-policies")
    assert shown.exit_code == 0, shown.output
    assert set(json.loads(shown.stdout)) == {"deployer", "trainer", "function"}
