"""What is to be deployed on AWS Lambda, checked before AWS is asked anything."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cirrus_fast.backend.layer import GLIBC, MACHINES
from cirrus_fast.data.s3 import split
from cirrus_fast.errors import OptionError, StorageError

HANDLER = "cirrus_fast.runtime.handler.handler"
# The longest that Lambda lets a function run: workers watch their deadline and hand over.
TIMEOUT_S = 900

DEPLOYMENT_TAG = "cirrus-fast:deployment"
OWNER_TAG = "cirrus-fast:owner"
VERSION_TAG = "cirrus-fast:version"
_OUR_TAGS = "cirrus-fast:"

# https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html
RETENTION_DAYS: tuple[int, ...] = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731)
RETENTION_DAYS += (1096, 1827, 2192, 2557, 2922, 3288, 3653)
# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html, of all variables
# together.
_MOST_ENVIRONMENT_BYTES = 4096
# Of the role, which has the longest name, IAM takes 64 characters; regions have up to 14.
_MOST_NAME = 64 - len("-ap-southeast-1")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]+")
# https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime
_RESERVED = re.compile(
    r"_.*|LAMBDA_(TASK_ROOT|RUNTIME_DIR)|AWS_LAMBDA_.*|AWS_(DEFAULT_)?REGION|AWS_EXECUTION_ENV"
    r"|AWS_ACCESS_KEY(_ID)?|AWS_SECRET_ACCESS_KEY|AWS_SESSION_TOKEN"
)
_SECRET_NAME = re.compile(r"(?i)passw|secret|token|credential|private_?key|api_?key|access_?key")
_SECRET_ARN = re.compile(
    r"arn:aws[\w-]*:(secretsmanager:[\w-]+:\d{12}:secret:.+|ssm:[\w-]+:\d{12}:parameter/.+)"
)
_ROLE_ARN = re.compile(r"arn:aws[\w-]*:iam::\d{12}:role/.+")
_BOUNDARY_ARN = re.compile(r"arn:aws[\w-]*:iam::(\d{12}|aws):policy/.+")
_KEY_ARN = re.compile(r"arn:aws[\w-]*:kms:[\w-]+:\d{12}:key/.+")
_TAG = re.compile(r"[\w\s.:/=+@-]*")
_NOT_IN_TAG = re.compile(r"[^\w\s.:/=+@-]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """A deployment.

    Attributes
    ----------
    name : of the function and the layer; the role's is it with the region
    data : s3://bucket/prefix that workers read and write, without the prefix a whole bucket
    read_only : the same, for what they only read
    memory : MB a worker has; its share of CPU goes with it, and is one at 1,769
    tmp : MB of disk a worker has, where S3 data beyond its memory are kept
    arch, python : "x86_64" or "arm64"; "3.11" to "3.14"
    subnets, security_groups : of the VPC that workers run in; none: outside any
    secrets : ARNs of secrets (Secrets Manager) or parameters (SSM) that workers may read: the
        password of a store, whose URL names it
    kms_keys : ARNs of keys that the data or secrets are encrypted with
    environment : further variables; no secrets
    log_retention : days that logs are kept
    reserved_concurrency : workers at once that the account keeps for this function, and allows it
    role : ARN of a role to use as it is, where none may be made
    permissions_boundary : ARN of a policy that the role made is bounded by
    owner : who may change this deployment; by default the AWS user or role that deploys
    tags : further tags of all that is made
    """

    name: str = "cirrus-fast"
    data: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    memory: int = 2048
    tmp: int = 512
    arch: str = "x86_64"
    python: str = "3.12"
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    kms_keys: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    log_retention: int = 14
    reserved_concurrency: int | None = None
    role: str | None = None
    permissions_boundary: str | None = None
    owner: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.data and not self.read_only:
            raise OptionError("data: missing; say where workers find it, as s3://bucket/prefix")
        for location in (*self.data, *self.read_only):
            place(location)
        _within("memory", self.memory, 128, 10_240, "MB")
        _within("tmp", self.tmp, 512, 10_240, "MB")
        _among("arch", self.arch, tuple(MACHINES))
        _among("python", self.python, tuple(GLIBC))
        if bool(self.subnets) != bool(self.security_groups):
            raise OptionError("subnets and security_groups: a VPC needs both")
        _all_like("subnets", self.subnets, re.compile(r"subnet-[0-9a-f]+"), "subnet-0123abcd")
        _all_like(
            "security_groups", self.security_groups, re.compile(r"sg-[0-9a-f]+"), "sg-0123abcd"
        )
        for name, given, pattern, example in (
            ("role", self.role, _ROLE_ARN, "arn:aws:iam::123456789012:role/NAME"),
            ("permissions_boundary", self.permissions_boundary, _BOUNDARY_ARN, "arn:aws:iam::..."),
        ):
            _all_like(name, () if given is None else (given,), pattern, example)
        _all_like(
            "secrets", self.secrets, _SECRET_ARN, "arn:aws:secretsmanager:... or arn:aws:ssm:..."
        )
        _all_like("kms_keys", self.kms_keys, _KEY_ARN, "arn:aws:kms:REGION:ACCOUNT:key/ID")
        if self.role is not None and self.permissions_boundary is not None:
            raise OptionError("permissions_boundary: is for a role that deploy makes")
        if self.log_retention not in RETENTION_DAYS:
            raise OptionError(
                f"log_retention={self.log_retention}: CloudWatch has "
                f"{', '.join(map(str, RETENTION_DAYS))} days"
            )
        if self.reserved_concurrency is not None:
            _within("reserved_concurrency", self.reserved_concurrency, 1, 100_000, "workers")
        _check_environment(self.environment)
        _check_tags(self.tags)
        if self.owner is not None:
            _check_tags({"owner": self.owner})

    @property
    def in_vpc(self) -> bool:
        return bool(self.subnets)

    @property
    def log_group(self) -> str:
        return log_group_of(self.name)

    def role_name(self, region: str) -> str:
        """Of the role that is made. Roles know no regions, and what it may do is of one."""
        return role_name(self.name, region)


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > _MOST_NAME:
        raise OptionError(
            f"name={name!r}: must be a letter, then up to {_MOST_NAME - 1} letters, digits, - or _"
        )


def log_group_of(name: str) -> str:
    return f"/aws/lambda/{name}"


def role_name(name: str, region: str) -> str:
    return f"{name}-{region}"


def place(location: str) -> tuple[str, str]:
    """(bucket, prefix) of an s3:// location."""
    if not location.startswith("s3://"):
        raise OptionError(f"{location}: workers on Lambda reach S3; give s3://bucket/prefix")
    try:
        bucket, prefix = split(location)
    except StorageError as error:
        raise OptionError(str(error)) from error
    if not _BUCKET.fullmatch(bucket):
        raise OptionError(f"{location}: {bucket!r} is no name of a bucket")
    if re.search(r"[*?$]", prefix):  # they mean something in a policy
        raise OptionError(f"{location}: a prefix that a policy names has no *, ? or $")
    return bucket, prefix


def tag_value(text: str) -> str:
    """As a tag takes it: names in IAM may have commas."""
    return _NOT_IN_TAG.sub("_", text)


def _within(name: str, value: int, low: int, high: int, unit: str) -> None:
    if not low <= value <= high:
        raise OptionError(f"{name}={value}: must be {low:,} to {high:,} {unit}")


def _among(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"Lambda has {', '.join(choices)}"
        raise OptionError(f"{name}={value!r}: {hint}")


def _all_like(name: str, values: tuple[str, ...], pattern: re.Pattern[str], example: str) -> None:
    for value in values:
        if not pattern.fullmatch(value):
            raise OptionError(f"{name}={value!r}: must look like {example}")


def _check_environment(variables: Mapping[str, str]) -> None:
    for name in variables:
        if not _VARIABLE.fullmatch(name):
            raise OptionError(f"environment: {name!r} is no name of a variable")
        if _RESERVED.fullmatch(name):
            raise OptionError(f"environment: {name} is set by Lambda")
        if _SECRET_NAME.search(name) and not name.endswith(("_ARN", "_NAME", "_ID")):
            raise OptionError(
                f"environment: {name} looks like a secret, which whoever may look at the function "
                "could read; put it into Secrets Manager or SSM, and give its ARN in secrets"
            )
    if len(json.dumps(dict(variables))) > _MOST_ENVIRONMENT_BYTES:
        raise OptionError(f"environment: Lambda takes {_MOST_ENVIRONMENT_BYTES:,} bytes in all")


def _check_tags(tags: Mapping[str, Any]) -> None:
    for key, value in tags.items():
        if not 1 <= len(key) <= 128 or len(value) > 256:
            raise OptionError(f"tags: {key!r} is too long; 128 characters, 256 for the value")
        if not _TAG.fullmatch(key) or not _TAG.fullmatch(value):
            raise OptionError(f"tags: {key}={value!r}: letters, digits, blanks and . : / = + - @ _")
        if key.startswith((_OUR_TAGS, "aws:")):
            raise OptionError(f"tags: {key} is not yours to set")
