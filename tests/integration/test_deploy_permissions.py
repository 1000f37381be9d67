"""The deployer's policy: enough for deploy, doctor and undeploy, and nothing that they do not need.

Twice, for neither sees all: moto's IAM knows actions, no resources and nothing that an operation
needs besides; what is here knows those.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from aws_account import AwsAccount, layer_bytes
from moto.core.authorization import enable_iam_authentication
from moto.iam.access_control import IAMRequestBase

from cirrus_fast.backend.deployment.account import Account, DeniedError
from cirrus_fast.backend.deployment.doctor import examine
from cirrus_fast.backend.deployment.policies import Policy, deployer_policy, trust_policy
from cirrus_fast.backend.deployment.settings import Settings
from cirrus_fast.backend.deployment.undeploy import plan_removal

ROOT = "arn:aws:lambda:us-east-1:123456789012"
FUNCTION, LAYER = f"{ROOT}:function:cirrus-fast", f"{ROOT}:layer:cirrus-fast"
LOG_GROUP = "arn:aws:logs:us-east-1:123456789012:log-group:/aws/lambda/cirrus-fast"
ROLE = "arn:aws:iam::123456789012:role/cirrus-fast-us-east-1"

# What AWS asks for besides, of the same call; documented for each of these operations.
ALSO = {
    "lambda:CreateFunction": [
        ("iam:PassRole", ROLE),
        ("lambda:GetLayerVersion", f"{LAYER}:1"),
        ("lambda:TagResource", FUNCTION),
        ("ec2:DescribeVpcs", "*"),
    ],
    "lambda:UpdateFunctionConfiguration": [
        ("iam:PassRole", ROLE),
        ("lambda:GetLayerVersion", f"{LAYER}:1"),
    ],
    "iam:CreateRole": [("iam:TagRole", ROLE)],
    "logs:CreateLogGroup": [("logs:TagResource", LOG_GROUP)],
}
ACTIONS = {"s3:HeadBucket": "s3:ListBucket", "lambda:Invoke": "lambda:InvokeFunction"}


@pytest.fixture
def settings(aws: AwsAccount) -> dict[str, Any]:
    """That ask for all there is."""
    ec2 = aws.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(VpcId=vpc, GroupName="workers", Description="w")["GroupId"]
    return {
        "data": ("s3://data/rows",),
        "subnets": (subnet,),
        "security_groups": (group,),
        "reserved_concurrency": 20,
    }


def policy_of(settings: Mapping[str, Any], account: Account) -> Policy:
    checked = Settings(**settings)
    return deployer_policy(checked, account.arns(checked))


def life(aws: AwsAccount, settings: dict[str, Any], account: Account) -> None:
    """All that a deployer does, with every kind of change on the way."""
    aws.deploy(account=account, **settings)
    others = trust_policy()
    others["Statement"][0]["Principal"] = {"Service": "ec2.amazonaws.com"}
    aws.client("iam").update_assume_role_policy(
        RoleName=ROLE.split("/")[1], PolicyDocument=json.dumps(others)
    )
    aws.client("lambda").update_function_code(FunctionName="cirrus-fast", ZipFile=layer_bytes())
    changed = settings | {"reserved_concurrency": None, "tags": {"a": "b"}, "log_retention": 30}
    layer = aws.layer(layer_bytes(more="y"))
    aws.deploy(account=account, layer=layer, **changed)
    for check in examine("cirrus-fast", account):
        assert "is not allowed" not in check.found, check
    plan_removal("cirrus-fast", account).apply()


def without(policy: Policy, action: str) -> Policy:
    left = [
        statement | {"Action": [one for one in statement["Action"] if one != action]}
        for statement in policy["Statement"]
    ]
    return policy | {"Statement": [one for one in left if one["Action"]]}


def actions_of(policy: Policy) -> list[str]:
    return [action for statement in policy["Statement"] for action in statement["Action"]]


# As moto enforces it


class Deployer:
    """A user with the policy, as far as moto understands it: actions alone."""

    def __init__(self, aws: AwsAccount) -> None:
        self._iam = aws.client("iam")
        self._aws = aws
        self._iam.create_user(UserName="deployer")
        self._key = self._iam.create_access_key(UserName="deployer")["AccessKey"]

    def account(self, policy: Policy) -> Account:
        its_names = {action: operation for operation, action in ACTIONS.items()}
        actions = [its_names.get(one, one) for one in actions_of(policy)]
        document = {"Effect": "Allow", "Action": actions, "Resource": "*"}
        self._iam.put_user_policy(
            UserName="deployer",
            PolicyName="p",
            PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": document}),
        )
        return self._aws.account(
            aws_access_key_id=self._key["AccessKeyId"],
            aws_secret_access_key=self._key["SecretAccessKey"],
        )


@pytest.fixture
def deployer(aws: AwsAccount, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployer]:
    """IAM is enforced; what the test itself asks for is root's."""
    user = Deployer(aws)
    admin = aws.client("iam")
    admin.create_user(UserName="root")
    key = admin.create_access_key(UserName="root")["AccessKey"]
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    admin.put_user_policy(
        UserName="root",
        PolicyName="p",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": everything}),
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    user._iam = aws.client("iam")
    # Which it works out from what it makes of a request, and gets wrong for Lambda's.
    monkeypatch.setattr(IAMRequestBase, "check_signature", lambda _request: None)
    with enable_iam_authentication():
        yield user


def test_the_policy_is_enough(
    aws: AwsAccount, settings: dict[str, Any], deployer: Deployer
) -> None:
    policy = policy_of(settings, aws.account())
    life(aws, settings, deployer.account(policy))


def test_each_action_that_a_first_deployment_takes_is_needed(
    aws: AwsAccount, settings: dict[str, Any], deployer: Deployer
) -> None:
    policy = policy_of(settings, aws.account())
    needed = [
        "lambda:GetFunctionConfiguration",
        "lambda:CreateFunction",
        "lambda:PutFunctionConcurrency",
        "lambda:ListLayerVersions",
        "lambda:PublishLayerVersion",
        "iam:GetRole",
        "iam:CreateRole",
        "iam:PutRolePolicy",
        "logs:DescribeLogGroups",
        "logs:CreateLogGroup",
        "logs:PutRetentionPolicy",
        "ec2:DescribeSubnets",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeRouteTables",
        "ec2:DescribeVpcEndpoints",
    ]
    for action in needed:
        with pytest.raises(DeniedError) as caught:
            aws.deploy(account=deployer.account(without(policy, action)), **settings)
        assert caught.value.action == action
        assert f"not allowed: {action}" in str(caught.value)
        plan_removal("cirrus-fast", deployer.account(policy)).apply()


def test_without_a_look_at_the_bucket_it_goes_on_and_says_so(
    aws: AwsAccount, settings: dict[str, Any], deployer: Deployer
) -> None:
    policy = without(policy_of(settings, aws.account()), "s3:ListBucket")
    plan = aws.plan(account=deployer.account(policy), **settings)
    assert "s3://data: could not be looked at: s3:ListBucket is not allowed" in plan.notes


# By resource, and with what operations need besides


def allows(policy: Policy, action: str, resource: str) -> bool:
    return any(
        action in statement["Action"]
        and any(fnmatch.fnmatchcase(resource, pattern) for pattern in statement["Resource"])
        for statement in policy["Statement"]
    )


def resource_of(operation: str, given: Mapping[str, Any]) -> str:
    service, _, verb = operation.partition(":")
    path = unquote(str(given.get("path", "")))
    if service == "s3":
        return "arn:aws:s3:::" + str(urlsplit(given["url"]).hostname).partition(".s3")[0]
    if service == "iam":
        return ROLE.rpartition("/")[0] + "/" + str(given["RoleName"])
    if service == "logs" and verb in ("ListTagsForResource", "TagResource"):
        return str(given["resourceArn"])
    if service == "logs" and verb != "DescribeLogGroups":
        return f"{LOG_GROUP.rpartition(':')[0]}:{given['logGroupName']}:*"
    if verb in ("ListTags", "TagResource"):
        return path.partition("/tags/")[2]
    if verb in ("PublishLayerVersion", "DeleteLayerVersion"):
        _, _, name, _, *version = path.strip("/").split("/")
        return ":".join([f"{ROOT}:layer:{name}", *version])
    if "/functions" in path:
        parts = path.partition("/functions")[2].strip("/").split("/")
        return f"{ROOT}:function:{parts[0] or given['FunctionName']}"
    return "*"


def enforce(aws: AwsAccount, policy: Policy) -> list[str]:
    """From now on; what was asked for is added to the list."""
    used: list[str] = []

    def refuse(operation: str, given: Mapping[str, Any]) -> tuple[str, str] | None:
        if operation == "sts:GetCallerIdentity":  # always allowed
            return None
        action = ACTIONS.get(operation, operation)
        for one, resource in [(action, resource_of(operation, given)), *ALSO.get(operation, [])]:
            if not allows(policy, one, resource):
                text = f"User: x is not authorized to perform: {one} on resource: {resource}"
                return "AccessDeniedException", text
            used.append(one)
        return None

    aws.refuse = refuse
    return used


def test_the_policy_is_enough_for_its_resources_and_all_of_it_is_needed(
    aws: AwsAccount, settings: dict[str, Any]
) -> None:
    policy = policy_of(settings, aws.account())
    used = enforce(aws, policy)
    life(aws, settings, aws.account())
    assert sorted(set(used)) == sorted(actions_of(policy))


def test_the_policy_is_of_this_deployment_alone(aws: AwsAccount, settings: dict[str, Any]) -> None:
    enforce(aws, policy_of(settings, aws.account()))
    with pytest.raises(DeniedError, match="lambda:GetFunctionConfiguration"):
        aws.deploy(name="cirrus-fast-2", **settings)
    with pytest.raises(DeniedError):
        plan_removal("other", aws.account())


@pytest.mark.parametrize("action", ["iam:PassRole", "lambda:GetLayerVersion", "iam:TagRole"])
def test_what_an_operation_needs_besides_is_named(
    aws: AwsAccount, settings: dict[str, Any], action: str
) -> None:
    enforce(aws, without(policy_of(settings, aws.account()), action))
    with pytest.raises(DeniedError) as caught:
        aws.deploy(**settings)
    assert caught.value.action == action


def test_only_what_has_no_resource_stands_beside_a_star(
    aws: AwsAccount, settings: dict[str, Any]
) -> None:
    policy = policy_of(settings, aws.account())
    (everywhere,) = [one for one in policy["Statement"] if one["Resource"] == ["*"]]
    assert not [
        one
        for one in everywhere["Action"]
        if not one.partition(":")[2].startswith(("Describe", "List", "GetAccountSettings"))
    ]
