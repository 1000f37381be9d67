"""Who may do what: the function, who deploys it, who trains with it; each as little as it takes.

Every statement says in its Sid what it is for. Actions that AWS ties to no resource, and only they,
stand beside "*".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from cirrus_fast.backend.deployment.settings import Settings, place

Policy = dict[str, Any]

INLINE_NAME = "cirrus-fast"

# https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html#configuration-vpc-permissions
_NETWORK_ACTIONS = (
    "ec2:CreateNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:DeleteNetworkInterface",
    "ec2:AssignPrivateIpAddresses",
    "ec2:UnassignPrivateIpAddresses",
)


class Arns:
    """Names of what a deployment is made of, in full."""

    def __init__(self, settings: Settings, region: str, account: str, partition: str) -> None:
        here = f"{region}:{account}"
        self.partition = partition
        self.function = f"arn:{partition}:lambda:{here}:function:{settings.name}"
        self.layer = f"arn:{partition}:lambda:{here}:layer:{settings.name}"
        self.log_group = f"arn:{partition}:logs:{here}:log-group:{settings.log_group}"
        self.role = settings.role or (
            f"arn:{partition}:iam::{account}:role/{settings.role_name(region)}"
        )

    def bucket(self, name: str) -> str:
        return f"arn:{self.partition}:s3:::{name}"


def trust_policy() -> Policy:
    """Lambda alone may act as the function's role."""
    return _policy(
        {
            "Sid": "Lambda",
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    )


def function_policy(settings: Settings, arns: Arns) -> Policy:
    """What the function may do."""
    logs = ("logs:CreateLogStream", "logs:PutLogEvents")
    statements = [_allow("Logs", logs, [f"{arns.log_group}:*"])]
    statements += _data(settings, arns)
    statements += _secrets(settings)
    if settings.in_vpc:
        statements.append(_allow("Network", _NETWORK_ACTIONS, ["*"]))
        # The permissions are for Lambda, which acts as the role too; the code gets them not.
        statements.append(
            {
                "Sid": "NotByTheCode",
                "Effect": "Deny",
                "Action": list(_NETWORK_ACTIONS),
                "Resource": "*",
                "Condition": {"ArnEquals": {"lambda:SourceFunctionArn": arns.function}},
            }
        )
    return _policy(*statements)


def deployer_policy(settings: Settings, arns: Arns) -> Policy:
    """What `deploy`, `undeploy` and `doctor` may do."""
    function = [
        f"lambda:{verb}"
        for verb in (
            "GetFunctionConfiguration",
            "GetFunctionConcurrency",
            "ListTags",
            "CreateFunction",
            "UpdateFunctionCode",
            "UpdateFunctionConfiguration",
            "PutFunctionConcurrency",
            "DeleteFunctionConcurrency",
            "TagResource",
            "DeleteFunction",
            "InvokeFunction",
        )
    ]
    role = [
        f"iam:{verb}"
        for verb in (
            "GetRole",
            "GetRolePolicy",
            "CreateRole",
            "UpdateAssumeRolePolicy",
            "TagRole",
            "PutRolePolicy",
            "DeleteRolePolicy",
            "DeleteRole",
        )
    ]
    logs = [
        f"logs:{verb}"
        for verb in (
            "CreateLogGroup",
            "PutRetentionPolicy",
            "ListTagsForResource",
            "TagResource",
            "DeleteLogGroup",
        )
    ]
    passing = _allow("PassRole", ["iam:PassRole"], [arns.role])
    passing["Condition"] = {"StringEquals": {"iam:PassedToService": "lambda.amazonaws.com"}}
    everywhere = ["lambda:ListLayerVersions", "lambda:GetAccountSettings", "logs:DescribeLogGroups"]
    if settings.in_vpc:
        # Of these, Vpcs is Lambda's: it looks with the rights of who connects a function.
        looked_at = ("Subnets", "SecurityGroups", "RouteTables", "VpcEndpoints", "Vpcs")
        everywhere += [f"ec2:Describe{what}" for what in looked_at]
    statements = [
        _allow("Function", function, [arns.function]),
        _allow("Layer", ["lambda:PublishLayerVersion"], [arns.layer]),
        _allow(
            "LayerVersions",
            ["lambda:GetLayerVersion", "lambda:DeleteLayerVersion"],
            [f"{arns.layer}:*"],
        ),
        passing,
    ]
    if settings.role is None:
        statements.append(_allow("Role", role, [arns.role]))
    statements.append(_allow("Logs", logs, [arns.log_group, f"{arns.log_group}:*"]))
    statements.append(_allow("Buckets", ["s3:ListBucket"], _buckets(settings, arns)))
    statements.append(_allow("Looking", everywhere, ["*"]))
    return _policy(*statements)


def trainer_policy(settings: Settings, arns: Arns) -> Policy:
    """What someone may do who trains with the deployed function: the supervisor evaluates, and
    is in the store, as workers are."""
    function = ["lambda:InvokeFunction", "lambda:GetFunctionConfiguration"]
    logs = ["logs:FilterLogEvents"]
    return _policy(
        _allow("Function", function, [arns.function]),
        _allow("Logs", logs, [f"{arns.log_group}:*"]),
        *_data(settings, arns),
        *_secrets(settings),
    )


def same(a: Policy, b: Policy) -> bool:
    """Whether two policies say the same, as AWS may have reordered keys."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def locations(policy: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The s3:// locations that a function's policy lets it read only, and write."""
    found: dict[str, list[str]] = {"ReadData": [], "WriteData": []}
    for statement in policy.get("Statement", ()):
        if statement.get("Sid") in found:
            found[statement["Sid"]] += [
                f"s3://{arn.partition(':::')[2].removesuffix('/*')}"
                for arn in statement["Resource"]
            ]
    write = _unique(found["WriteData"])
    return tuple(one for one in _unique(found["ReadData"]) if one not in write), tuple(write)


def secrets(policy: Mapping[str, Any]) -> tuple[str, ...]:
    """The secrets and parameters that a function's policy lets it read."""
    return tuple(
        arn
        for statement in policy.get("Statement", ())
        if statement.get("Sid") in ("Secrets", "Parameters")
        for arn in statement["Resource"]
    )


def _data(settings: Settings, arns: Arns) -> list[Policy]:
    """Objects under the locations. A worker asks for some that may not be there, which is "not
    found" only to who may list."""
    read = [arn for one in (*settings.data, *settings.read_only) for arn in _readable(one, arns)]
    write = [_readable(one, arns)[-1] for one in settings.data]
    statements = [_allow("ReadData", ["s3:GetObject"], _unique(read))]
    if write:
        actions = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
        statements.append(_allow("WriteData", actions, _unique(write)))
    whole = []
    prefixes: dict[str, list[str]] = {}
    for location in _unique((*settings.data, *settings.read_only)):
        bucket, prefix = place(location)
        if prefix:
            prefixes.setdefault(bucket, []).append(f"{prefix}/*")
        else:
            whole.append(arns.bucket(bucket))
    if whole:
        statements.append(_allow("ListBuckets", ["s3:ListBucket"], _unique(whole)))
    for n, (bucket, allowed) in enumerate(prefixes.items(), 1):
        if arns.bucket(bucket) in whole:
            continue
        listing = _allow(f"ListPrefixes{n}", ["s3:ListBucket"], [arns.bucket(bucket)])
        # Asking for one object that is not there comes without a prefix.
        listing["Condition"] = {"StringLikeIfExists": {"s3:prefix": allowed}}
        statements.append(listing)
    return statements


def _secrets(settings: Settings) -> list[Policy]:
    statements = []
    for sid, service, action in (
        ("Secrets", ":secretsmanager:", "secretsmanager:GetSecretValue"),
        ("Parameters", ":ssm:", "ssm:GetParameter"),
    ):
        of_service = [arn for arn in settings.secrets if service in arn]
        if of_service:
            statements.append(_allow(sid, [action], of_service))
    if settings.kms_keys:
        # Encrypting is for what is written.
        actions = ["kms:Decrypt", "kms:GenerateDataKey"] if settings.data else ["kms:Decrypt"]
        statements.append(_allow("Keys", actions, settings.kms_keys))
    return statements


def _readable(location: str, arns: Arns) -> list[str]:
    """A location may be a single object, such as a text; what lies below it comes last."""
    bucket, prefix = place(location)
    if not prefix:
        return [arns.bucket(f"{bucket}/*")]
    return [arns.bucket(f"{bucket}/{prefix}"), arns.bucket(f"{bucket}/{prefix}/*")]


def _buckets(settings: Settings, arns: Arns) -> list[str]:
    locations = (*settings.data, *settings.read_only)
    return _unique(arns.bucket(place(location)[0]) for location in locations)


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))


def _allow(sid: str, actions: Iterable[str], resources: Iterable[str]) -> Policy:
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": list(resources),
    }


def _policy(*statements: Policy) -> Policy:
    return {"Version": "2012-10-17", "Statement": list(statements)}
