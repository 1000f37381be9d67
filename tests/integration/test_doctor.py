"""What doctor sees of a deployment, from outside and from inside."""

from __future__ import annotations

import io
import json
import os
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from aws_account import AwsAccount
from click.testing import CliRunner

from cirrus_fast import LambdaExecutor, __version__
from cirrus_fast.backend.deployment.doctor import Check, examine
from cirrus_fast.cli import cli
from cirrus_fast.runtime.probe import probe

HEALTHY = {
    "version": __version__,
    "python": "3.12.1",
    "machine": "x86_64",
    "impl": "avx2",
    "memory": "2048",
    "region": "us-east-1",
    "read": {},
    "write": {"s3://data/rows": {"trouble": None, "seconds": 0.1}},
    "stores": {},
    "modules": {},
}


def answers(answer: Mapping[str, Any]) -> Callable[..., Any]:
    """What an invocation gives, in the place of the account's own."""
    payload = json.dumps(answer).encode()

    def refuse(operation: str, given: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return {"Payload": io.BytesIO(payload)} if operation == "lambda:Invoke" else None

    return refuse


def look(aws: AwsAccount, **given: Any) -> dict[str, Check]:
    return {check.name: check for check in examine("cirrus-fast", aws.account(), **given)}


@pytest.fixture
def healthy(aws: AwsAccount) -> AwsAccount:
    aws.deploy()
    aws.refuse = answers({"cirrus_fast": __version__, "answer": HEALTHY})
    return aws


def test_a_deployment_that_is_well(healthy: AwsAccount) -> None:
    found = look(healthy)
    assert {name: check.verdict for name, check in found.items()} == {
        "credentials": "ok",
        "region": "ok",
        "concurrency": "ok",
        "function": "ok",
        "version": "ok",
        "role": "ok",
        "s3://data": "ok",
        "network": "ok",
        "inside": "ok",
        "inside: write s3://data/rows": "ok",
        "store": "warn",
    }
    assert found["version"].found == f"cirrus-fast {__version__}, layer version 1"


def test_nothing_deployed(aws: AwsAccount) -> None:
    check = look(aws)["function"]
    assert (check.verdict, check.found) == ("fail", "there is no cirrus-fast in us-east-1")
    assert "cirrus-fast deploy" in check.todo


def test_credentials_that_are_not_taken(aws: AwsAccount) -> None:
    aws.refuse = lambda operation, _: ("InvalidClientTokenId", "The security token is invalid")
    found = look(aws)
    assert list(found) == ["credentials"]
    assert "AWS_PROFILE" in found["credentials"].found


def test_an_account_that_allows_too_few_workers(healthy: AwsAccount) -> None:
    assert look(healthy, n_workers=50)["concurrency"].verdict == "ok"
    inside = healthy.refuse
    healthy.refuse = lambda operation, given: (
        {"AccountLimit": {"ConcurrentExecutions": 10, "UnreservedConcurrentExecutions": 10}}
        if operation == "lambda:GetAccountSettings"
        else inside(operation, given)
    )
    check = look(healthy, n_workers=50)["concurrency"]
    assert (check.verdict, check.found) == ("fail", "10 workers at once, and 50 are wanted")
    healthy.refuse = lambda _operation, _given: None
    healthy.deploy(reserved_concurrency=20)
    assert "--reserved-concurrency 50" in look(healthy, n_workers=50)["concurrency"].todo


@pytest.mark.parametrize(
    ("change", "name", "verdict", "text"),
    [
        (
            lambda aws: aws.client("lambda").tag_resource(
                Resource=aws.function()["Configuration"]["FunctionArn"],
                Tags={"cirrus-fast:version": "0.0.9"},
            ),
            "version",
            "fail",
            f"the function has cirrus-fast 0.0.9, and this is {__version__}",
        ),
        (
            lambda aws: aws.client("lambda").delete_layer_version(
                LayerName="cirrus-fast", VersionNumber=1
            ),
            "version",
            "warn",
            "its layer is gone",
        ),
        (
            lambda aws: aws.client("lambda").update_function_configuration(
                FunctionName="cirrus-fast", Timeout=60
            ),
            "function",
            "warn",
            "60 s",
        ),
        (
            lambda aws: aws.client("lambda").update_function_configuration(
                FunctionName="cirrus-fast", Handler="lambda_function.lambda_handler"
            ),
            "function",
            "fail",
            "is not ours",
        ),
        (
            lambda aws: aws.client("iam").delete_role_policy(
                RoleName="cirrus-fast-us-east-1", PolicyName="cirrus-fast"
            ),
            "role",
            "warn",
            "lacks the policy",
        ),
        (lambda aws: aws.client("s3").delete_bucket(Bucket="data"), "s3://data", "fail", "no such"),
    ],
)
def test_what_has_changed_is_noticed(
    healthy: AwsAccount, change: Callable[[AwsAccount], object], name: str, verdict: str, text: str
) -> None:
    change(healthy)
    check = look(healthy)[name]
    assert check.verdict == verdict
    assert text in check.found
    assert check.todo


def test_a_function_that_is_not_ready_is_not_asked(healthy: AwsAccount) -> None:
    healthy.refuse = lambda operation, given: (
        {**healthy.function()["Configuration"], "State": "Failed", "StateReason": "no subnet"}
        if operation == "lambda:GetFunctionConfiguration"
        else None
    )
    found = look(healthy)
    assert found["function"].found == "Failed: no subnet"
    assert found["inside"].verdict == "warn"
    assert "lambda:Invoke" not in healthy.operations


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"errorMessage": "Unable to import module", "errorType": "x"}, "none of cirrus-fast's"),
        ({"cirrus_fast": "1", "error": ["FunctionError", "both must be the same", {}]}, "same"),
        (["hello"], "none of cirrus-fast's"),
    ],
)
def test_an_answer_that_is_none(healthy: AwsAccount, answer: Any, text: str) -> None:
    healthy.refuse = answers(answer)
    check = look(healthy)["inside"]
    assert check.verdict == "fail"
    assert text in check.found


def test_what_workers_cannot_reach(healthy: AwsAccount) -> None:
    trouble = {"trouble": "10.0.0.5:6379: timed out", "seconds": 6.0}
    seen = HEALTHY | {"stores": {"redis://10.0.0.5:6379": trouble}}
    healthy.refuse = answers({"cirrus_fast": __version__, "answer": seen})
    check = look(healthy, stores=["redis://:secret@10.0.0.5"])[
        "inside: store redis://10.0.0.5:6379"
    ]
    assert (check.verdict, check.found) == ("fail", "10.0.0.5:6379: timed out")
    assert "security group" in check.todo
    assert "secret" not in str(healthy.asked[-1])


def test_what_may_not_be_looked_at_is_no_failure(healthy: AwsAccount) -> None:
    inside = healthy.refuse
    healthy.refuse = lambda operation, given: (
        ("AccessDenied", "no") if operation.startswith("iam:") else inside(operation, given)
    )
    check = look(healthy)["role"]
    assert (check.verdict, check.found) == ("warn", "not looked at: iam:GetRole is not allowed")


# The network


@pytest.fixture
def vpc(aws: AwsAccount) -> dict[str, Any]:
    """With two subnets, of which the second has a route table of its own."""
    ec2 = aws.client("ec2")
    made = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=made, CidrBlock=f"10.0.{n}.0/24")["Subnet"]["SubnetId"]
        for n in (1, 2)
    ]
    group = ec2.create_security_group(VpcId=made, GroupName="workers", Description="w")["GroupId"]
    table = ec2.create_route_table(VpcId=made)["RouteTable"]["RouteTableId"]
    ec2.associate_route_table(SubnetId=subnets[1], RouteTableId=table)
    tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [made]}])
    main = next(
        one["RouteTableId"]
        for one in tables["RouteTables"]
        if any(association.get("Main") for association in one["Associations"])
    )
    settings = {"subnets": tuple(subnets), "security_groups": (group,)}
    return {"ec2": ec2, "vpc": made, "main": main, "own": table, "settings": settings}


def test_the_gateway_endpoint_must_be_in_every_subnets_table(
    aws: AwsAccount, vpc: dict[str, Any]
) -> None:
    settings, (first, second) = vpc["settings"], vpc["settings"]["subnets"]
    plan = aws.deploy(**settings)
    assert len(plan.notes) == 2
    aws.refuse = answers({"cirrus_fast": __version__, "answer": HEALTHY})
    endpoint = {"VpcId": vpc["vpc"], "ServiceName": "com.amazonaws.us-east-1.s3"}
    vpc["ec2"].create_vpc_endpoint(**endpoint, RouteTableIds=[vpc["main"]])
    found = look(aws)
    assert found[f"network {first}"].verdict == "ok"
    assert found[f"network {second}"].verdict == "fail"
    assert f"--route-table-ids {vpc['own']}" in found[f"network {second}"].todo
    vpc["ec2"].create_vpc_endpoint(**endpoint, RouteTableIds=[vpc["own"]])
    assert look(aws)[f"network {second}"].verdict == "ok"
    assert aws.plan(**settings).notes == []


def test_a_nat_gateway_will_do_at_a_price(aws: AwsAccount, vpc: dict[str, Any]) -> None:
    ec2, subnets = vpc["ec2"], vpc["settings"]["subnets"]
    gateway = ec2.create_nat_gateway(SubnetId=subnets[0])["NatGateway"]["NatGatewayId"]
    ec2.create_route(
        RouteTableId=vpc["own"], DestinationCidrBlock="0.0.0.0/0", NatGatewayId=gateway
    )
    aws.deploy(**vpc["settings"])
    aws.refuse = answers({"cirrus_fast": __version__, "answer": HEALTHY})
    check = look(aws)[f"network {subnets[1]}"]
    assert check.verdict == "warn"
    assert "costs by the byte" in check.todo


def test_a_secret_must_be_reached_too(aws: AwsAccount, vpc: dict[str, Any]) -> None:
    subnets, groups = vpc["settings"]["subnets"], vpc["settings"]["security_groups"]
    secret = "arn:aws:secretsmanager:us-east-1:123456789012:secret:redis-AbCdEf"
    plan = aws.deploy(**vpc["settings"], secrets=(secret,))
    assert "no way from" in plan.notes[-1]
    aws.refuse = answers({"cirrus_fast": __version__, "answer": HEALTHY})
    assert look(aws)["network secretsmanager"].verdict == "fail"
    vpc["ec2"].create_vpc_endpoint(
        VpcId=vpc["vpc"],
        VpcEndpointType="Interface",
        ServiceName="com.amazonaws.us-east-1.secretsmanager",
        SubnetIds=list(subnets),
        SecurityGroupIds=list(groups),
    )
    assert look(aws)["network secretsmanager"].verdict == "ok"


# From inside, for real


def test_doctor_asks_the_function_itself(
    aws: AwsAccount,
    s3: Any,
    redis_server: Any,
    local_lambda: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The handler in a sandbox, out of the layer; the account is only told of it."""
    local = local_lambda(
        environment={
            "AWS_ENDPOINT_URL": s3.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
    )
    for name in [name for name in os.environ if name.startswith("AWS_ENDPOINT_URL")]:
        monkeypatch.delenv(name)  # which would be asked for the account's too
    aws.deploy(data=("s3://bucket/rows",))

    def invoke(operation: str, given: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if operation != "lambda:Invoke":
            return None
        event = {key: value for key, value in given.items() if key not in ("path", "url")}
        url = f"{local.url}/2015-03-31/functions/worker/invocations"
        with urllib.request.urlopen(url, data=json.dumps(event).encode()) as answer:
            return {"Payload": io.BytesIO(answer.read())}

    aws.refuse = invoke
    found = look(
        aws,
        data=["s3://bucket/more", "s3://none-such"],
        stores=[redis_server.url, "redis://127.0.0.1:9"],
    )
    assert found["inside"].found.startswith(f"cirrus-fast {__version__}, Python 3.")
    assert found["inside: write s3://bucket/rows"].verdict == "ok"
    assert found["inside: read s3://bucket/more"].verdict == "ok"
    store = found[f"inside: store {redis_server.url}"]
    assert store.verdict == "ok"
    assert store.found.endswith("without our module")
    away = found["inside: store redis://127.0.0.1:9"]
    assert away.verdict == "fail"
    assert "127.0.0.1:9" in away.found
    methods = [method for method, path, _ in s3.application.requests if "/rows/" in path]
    assert methods == ["PUT", "DELETE"]


def test_a_probe_says_why_a_place_cannot_be_reached(
    s3: Any, local_lambda: Callable[..., Any]
) -> None:
    local_lambda(environment={"AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    with LambdaExecutor() as functions:
        seen = functions.submit(probe, ["s3://bucket/x"], [], []).result(60)
    assert seen["read"]["s3://bucket/x"]["trouble"].startswith("no way to 127.0.0.1:9")


# The command


def test_the_command_fails_where_a_check_does(
    healthy: AwsAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = "cirrus_fast.backend.deployment.account.Account"
    monkeypatch.setattr(account, lambda region: healthy.account(region))
    healthy.refuse = answers([])
    outcome = CliRunner().invoke(cli, ["doctor", "--region", "us-east-1"])
    assert outcome.exit_code == 1
    assert "ok    credentials" in outcome.stdout
    assert "fail  inside" in outcome.stdout
    assert outcome.stderr == "cirrus-fast: error: 1 check failed\n"
    as_json = CliRunner().invoke(cli, ["doctor", "--region", "us-east-1", "--json"])
    assert json.loads(as_json.stdout)["failed"] == 1
