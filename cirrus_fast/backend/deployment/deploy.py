"""Puts the function, and what it needs, on AWS Lambda; again, and only what differs changes.

A deployment is a layer (all code), a function (a name for it, settings), a role (what workers may
do) and a log group. Each is looked at, compared with what is wanted, and made or changed. The
function's own code is a zip with one line of text in it: the handler is in the layer, so that the
code is sent once a version, whatever else changes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from cirrus_fast._version import __version__
from cirrus_fast.backend.deployment import network
from cirrus_fast.backend.deployment.account import Account, Answer, DeniedError, RefusedError
from cirrus_fast.backend.deployment.layer_zip import LayerZip
from cirrus_fast.backend.deployment.ownership import (
    check_ours,
    from_list,
    layer_text,
    layer_versions,
    owner_of,
    tags_of,
    to_list,
)
from cirrus_fast.backend.deployment.plan import CREATE, DELETE, KEEP, UPDATE, Plan, Step
from cirrus_fast.backend.deployment.policies import (
    INLINE_NAME,
    Policy,
    deployer_policy,
    function_policy,
    same,
    trust_policy,
)
from cirrus_fast.backend.deployment.settings import HANDLER, TIMEOUT_S, Settings, place
from cirrus_fast.errors import DeploymentError

# A role is known everywhere only some seconds after it was made: about 80 s in all.
_UNTIL_ROLE_IS_KNOWN = (1, 2, 3, 4, 5, *[8] * 8)
# A function in a VPC takes a minute or two to get its network: about 10 minutes in all.
_UNTIL_ACTIVE = (0.5, 1, 1, 2, 2, 3, *[5] * 120)
_UNTIL_UPDATED = (1, 1, 2, 3, *[5] * 60)

_ROLE_UNKNOWN = ("cannot be assumed by Lambda", "does not have permissions to call")


def plan_deployment(settings: Settings, layer: LayerZip, account: Account) -> Plan:
    """What `apply` would do; changes nothing.

    Raises
    ------
    DeploymentError : not allowed to look, a bucket or subnet is not there, what is there is
        another's, the layer is of another version, Python or architecture
    """
    return _Deployment(settings, layer, account).plan()


def stub_zip() -> bytes:
    """The function's own code. The same bytes always."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        info = zipfile.ZipInfo("README.txt", (1980, 1, 1, 0, 0, 0))
        info.external_attr = 0o644 << 16
        archive.writestr(info, f"The code is in the layer; {HANDLER} is called.\n")
    return packed.getvalue()


def as_lambda_has_it(sha256: bytes) -> str:
    return base64.b64encode(sha256).decode()


class _Deployment:
    def __init__(self, settings: Settings, layer: LayerZip, account: Account) -> None:
        _check_layer(settings, layer)
        self._settings = settings
        self._layer = layer
        self._account = account
        self._arns = account.arns(settings)
        self._owner = owner_of(settings.owner, account)
        self._tags = tags_of(settings, account)
        self._policy = function_policy(settings, self._arns)
        self._layers = layer_versions(account, settings.name)
        self._layer_arn = ""  # known once it is published
        self._role_is_new = False

    def plan(self) -> Plan:
        plan = Plan()
        plan.policies["function"] = self._policy
        plan.policies["deployer"] = deployer_policy(self._settings, self._arns)
        # Things that refuse come first, so that an error leaves nothing half done.
        plan.notes += self._check_buckets()
        plan.notes += network.check(self._account, self._settings)
        function = self._find_function()
        plan.steps += self._role()
        plan.steps += self._logs()
        plan.steps += self._publish()
        plan.steps += self._function(function)
        plan.steps += self._concurrency(function)
        plan.steps += self._old_layers()
        return plan

    # Where the data are

    def _check_buckets(self) -> Iterator[str]:
        settings, region = self._settings, self._account.region
        for bucket in dict.fromkeys(place(one)[0] for one in (*settings.data, *settings.read_only)):
            try:
                found = self._account.find("s3", "HeadBucket", Bucket=bucket)
            except DeniedError as error:
                yield f"s3://{bucket}: could not be looked at: {error.action} is not allowed"
                continue
            if found is None:
                raise DeploymentError(f"s3://{bucket}: there is no such bucket")
            there = found.get("BucketRegion", region)
            if there != region:
                yield (
                    f"s3://{bucket} is in {there} and the function in {region}: reading is slow, "
                    "costs by the byte, and is impossible out of a VPC without NAT"
                )

    # What the function may do

    def _role(self) -> Iterator[Step]:
        settings, account = self._settings, self._account
        if settings.role is not None:
            yield Step(f"role {settings.role}", KEEP, "yours; it needs the policy shown")
            return
        name = settings.role_name(account.region)
        what = f"role {name}"
        found = account.find("iam", "GetRole", RoleName=name)
        if found is None:
            self._role_is_new = True
            yield Step(what, CREATE, "there is none", lambda: self._create_role(name))
        else:
            role = found["Role"]
            tags = from_list(role.get("Tags", ()))
            check_ours(what, tags, settings.name, self._owner)
            bound = role.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn")
            if bound != settings.permissions_boundary:
                raise DeploymentError(
                    f"{what}: is bounded by {bound or 'nothing'}, not by "
                    f"{settings.permissions_boundary or 'nothing'}, which is settled when it is "
                    "made: undeploy first"
                )
            yield self._update_role(what, name, role["AssumeRolePolicyDocument"], tags)
        kept = None
        if found is not None:
            kept = account.find("iam", "GetRolePolicy", RoleName=name, PolicyName=INLINE_NAME)
        what = f"policy of role {name}"
        if kept is None:
            yield Step(what, CREATE, "there is none", lambda: self._put_policy(name))
        elif same(kept["PolicyDocument"], self._policy):
            yield Step(what, KEEP, "is as it should be")
        else:
            yield Step(what, UPDATE, "says something else", lambda: self._put_policy(name))

    def _create_role(self, name: str) -> None:
        bound = self._settings.permissions_boundary
        self._account.ask(
            "iam",
            "CreateRole",
            RoleName=name,
            AssumeRolePolicyDocument=_json(trust_policy()),
            Description=f"Workers of {self._settings.name} ({self._account.region})",
            Tags=to_list(self._tags),
            **({} if bound is None else {"PermissionsBoundary": bound}),
        )

    def _update_role(
        self, what: str, name: str, trust: Mapping[str, Any], tags: Mapping[str, str]
    ) -> Step:
        changes = _differing_tags(tags, self._tags)
        reasons = [f"tags {', '.join(changes)}"] if changes else []
        trusted = same(dict(trust), trust_policy())
        if not trusted:
            reasons.append("others may act as it, or Lambda may not")

        def update() -> None:
            if not trusted:
                self._account.ask(
                    "iam",
                    "UpdateAssumeRolePolicy",
                    RoleName=name,
                    PolicyDocument=_json(trust_policy()),
                )
            if changes:
                self._account.ask("iam", "TagRole", RoleName=name, Tags=to_list(changes))

        if not reasons:
            return Step(what, KEEP, "is as it should be")
        return Step(what, UPDATE, "; ".join(reasons), update)

    def _put_policy(self, role: str) -> None:
        self._account.ask(
            "iam",
            "PutRolePolicy",
            RoleName=role,
            PolicyName=INLINE_NAME,
            PolicyDocument=_json(self._policy),
        )

    # Where it writes its log

    def _logs(self) -> Iterator[Step]:
        settings, account, arn = self._settings, self._account, self._arns.log_group
        name, days = settings.log_group, settings.log_retention
        what = f"log group {name}"
        found = find_log_group(account, name)
        if found is None:

            def create() -> None:
                account.ask("logs", "CreateLogGroup", logGroupName=name, tags=self._tags)
                self._keep_logs()

            yield Step(what, CREATE, f"there is none; kept {days} days", create)
            return
        tags = account.ask("logs", "ListTagsForResource", resourceArn=arn)["tags"]
        check_ours(what, tags, settings.name, self._owner)
        changes = _differing_tags(tags, self._tags)
        kept = found.get("retentionInDays")
        reasons = [f"tags {', '.join(changes)}"] if changes else []
        if kept != days:
            reasons.append(f"kept {kept or 'for ever'} -> {days} days")

        def update() -> None:
            if kept != days:
                self._keep_logs()
            if changes:
                account.ask("logs", "TagResource", resourceArn=arn, tags=changes)

        if reasons:
            yield Step(what, UPDATE, "; ".join(reasons), update)
        else:
            yield Step(what, KEEP, f"kept {days} days")

    def _keep_logs(self) -> None:
        self._account.ask(
            "logs",
            "PutRetentionPolicy",
            logGroupName=self._settings.log_group,
            retentionInDays=self._settings.log_retention,
        )

    # The code

    def _publish(self) -> Iterator[Step]:
        layer, name = self._layer, self._settings.name
        for number, (arn, sha256) in self._layers.items():
            if sha256 == layer.sha256:
                self._layer_arn = arn
                yield Step(f"layer {name}:{number}", KEEP, f"has this zip, {_short(sha256)}")
                return
        reason = f"no version has this zip, {_short(layer.sha256)}, {len(layer.content):,} bytes"
        yield Step(f"layer {name}", CREATE, reason, self._publish_layer)

    def _publish_layer(self) -> None:
        layer, name = self._layer, self._settings.name
        made = self._account.ask(
            "lambda",
            "PublishLayerVersion",
            LayerName=name,
            Description=layer_text(name, layer.sha256),
            Content={"ZipFile": layer.content},
            CompatibleRuntimes=[f"python{layer.python}"],
            CompatibleArchitectures=[layer.arch],
            LicenseInfo="Apache-2.0",
        )
        there = made["Content"]["CodeSha256"]
        if there != as_lambda_has_it(bytes.fromhex(layer.sha256)):
            raise DeploymentError(f"layer {name}: what Lambda got is not what was sent ({there})")
        self._layer_arn = made["LayerVersionArn"]

    def _old_layers(self) -> Iterator[Step]:
        """A function keeps the layer it has, whatever becomes of the layer."""
        name = self._settings.name
        for number, (_, sha256) in self._layers.items():
            if sha256 != self._layer.sha256:
                yield Step(
                    f"layer {name}:{number}",
                    DELETE,
                    f"an older one of this deployment, {_short(sha256)}",
                    lambda number=number: delete_layer(self._account, name, number),  # type: ignore[misc]
                )

    # The function

    def _find_function(self) -> Answer | None:
        account, name = self._account, self._settings.name
        found = account.find("lambda", "GetFunctionConfiguration", FunctionName=name)
        if found is None:
            return None
        tags = account.ask("lambda", "ListTags", Resource=self._arns.function)["Tags"]
        check_ours(f"function {name}", tags, name, self._owner)
        return found | {"Tags": tags}

    def _function(self, found: Answer | None) -> Iterator[Step]:
        settings = self._settings
        what = f"function {settings.name}"
        if found is None:
            yield Step(what, CREATE, f"there is none; {_in_words(settings)}", self._create_function)
            return
        changes = self._changes(found)
        if changes:
            reason = "; ".join(f"{name} {old} -> {new}" for name, (old, new) in changes.items())
            yield Step(what, UPDATE, reason, self._update_function)
        else:
            yield Step(what, KEEP, _in_words(settings))
        code = []
        if found["CodeSha256"] != as_lambda_has_it(hashlib.sha256(stub_zip()).digest()):
            code.append("is not what cirrus-fast puts there")
        if found["Architectures"] != [settings.arch]:
            code.append(f"architecture {found['Architectures'][0]} -> {settings.arch}")
        if code:
            yield Step(f"code of {what}", UPDATE, "; ".join(code), self._update_code)
        tags = _differing_tags(found["Tags"], self._tags)
        if tags:
            yield Step(
                f"tags of {what}",
                UPDATE,
                ", ".join(f"{key} {found['Tags'].get(key)} -> {tags[key]}" for key in tags),
                lambda: self._account.ask(
                    "lambda", "TagResource", Resource=self._arns.function, Tags=tags
                ),
            )

    def _changes(self, found: Answer) -> dict[str, tuple[object, object]]:
        """Setting -> what it is and what it should be."""
        settings = self._settings
        layers = [layer["Arn"] for layer in found.get("Layers") or ()]
        vpc = found.get("VpcConfig") or {}
        is_and_should = {
            "runtime": (found.get("Runtime"), f"python{settings.python}"),
            "handler": (found.get("Handler"), HANDLER),
            # A function goes on with a role that was deleted, and knows none made in its place.
            "role": (found["Role"] + " that was" * self._role_is_new, self._arns.role),
            "memory": (found["MemorySize"], settings.memory),
            "timeout": (found["Timeout"], TIMEOUT_S),
            "tmp": (found["EphemeralStorage"]["Size"], settings.tmp),
            "description": (found.get("Description"), self._description),
            "environment": (
                found.get("Environment", {}).get("Variables", {}),
                dict(settings.environment),
            ),
            "subnets": (sorted(vpc.get("SubnetIds") or ()), sorted(settings.subnets)),
            "security groups": (
                sorted(vpc.get("SecurityGroupIds") or ()),
                sorted(settings.security_groups),
            ),
            "layer": (_numbers(layers), _numbers([self._layer_arn] if self._layer_arn else [])),
        }
        return {name: pair for name, pair in is_and_should.items() if pair[0] != pair[1]}

    @property
    def _description(self) -> str:
        return f"Workers of cirrus-fast {__version__}"

    @property
    def _configuration(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "FunctionName": settings.name,
            "Runtime": f"python{settings.python}",
            "Handler": HANDLER,
            "Role": self._arns.role,
            "Description": self._description,
            "MemorySize": settings.memory,
            "Timeout": TIMEOUT_S,
            "EphemeralStorage": {"Size": settings.tmp},
            "Environment": {"Variables": dict(settings.environment)},
            "Layers": [self._layer_arn],
            "VpcConfig": {
                "SubnetIds": list(settings.subnets),
                "SecurityGroupIds": list(settings.security_groups),
            },
        }

    def _create_function(self) -> None:
        given = self._configuration
        if not self._settings.in_vpc:
            del given["VpcConfig"]
        self._patiently(
            "CreateFunction",
            Code={"ZipFile": stub_zip()},
            Architectures=[self._settings.arch],
            Tags=self._tags,
            **given,
        )
        self._wait()

    def _update_function(self) -> None:
        self._patiently("UpdateFunctionConfiguration", **self._configuration)
        self._wait()

    def _update_code(self) -> None:
        self._patiently(
            "UpdateFunctionCode",
            FunctionName=self._settings.name,
            ZipFile=stub_zip(),
            Architectures=[self._settings.arch],
        )
        self._wait()

    def _patiently(self, operation: str, **given: Any) -> Answer:
        """Through the time in which a new role, or its policy, is not known everywhere, and in
        which another change of the function is under way."""
        account = self._account
        try:
            return account.patiently(
                lambda: account.ask("lambda", operation, **given),
                _UNTIL_UPDATED if operation.startswith("Update") else _UNTIL_ROLE_IS_KNOWN,
                _passes,
            )
        except RefusedError as error:
            if any(text in error.said for text in _ROLE_UNKNOWN):
                raise DeploymentError(
                    f"{error}: Lambda still cannot use {self._arns.role}; does a policy of your "
                    "organisation forbid it? The same command goes on from here"
                ) from error
            raise

    def _wait(self) -> None:
        name = self._settings.name
        for delay in _UNTIL_ACTIVE:
            found = self._account.ask("lambda", "GetFunctionConfiguration", FunctionName=name)
            state, update = found.get("State"), found.get("LastUpdateStatus", "Successful")
            if "Failed" in (state, update):
                why = found.get("StateReason") or found.get("LastUpdateStatusReason")
                raise DeploymentError(f"function {name}: {why or 'Lambda does not say why'}")
            if state in ("Active", "Inactive") and update == "Successful":
                return
            self._account.sleep(delay)
        raise DeploymentError(
            f"function {name}: is still {state}, its update {update}; look at it with "
            "`cirrus-fast doctor`"
        )

    def _concurrency(self, function: Answer | None) -> Iterator[Step]:
        settings, account = self._settings, self._account
        wanted, name = settings.reserved_concurrency, settings.name
        what = f"concurrency of function {name}"
        there = None
        if function is not None:
            found = account.ask("lambda", "GetFunctionConcurrency", FunctionName=name)
            there = found.get("ReservedConcurrentExecutions")
        if there == wanted:
            if wanted is not None:
                yield Step(what, KEEP, f"{wanted} workers")
            return
        operation = "PutFunctionConcurrency"
        given: dict[str, Any] = {"FunctionName": name, "ReservedConcurrentExecutions": wanted}
        if wanted is None:
            operation = "DeleteFunctionConcurrency"
            del given["ReservedConcurrentExecutions"]
        yield Step(
            what,
            UPDATE,
            f"{_workers(there)} -> {_workers(wanted)}",
            lambda: account.ask("lambda", operation, **given),
        )


def find_log_group(account: Account, name: str) -> Answer | None:
    groups = account.pages("logs", "DescribeLogGroups", "logGroups", logGroupNamePrefix=name)
    return next((group for group in groups if group["logGroupName"] == name), None)


def delete_layer(account: Account, name: str, number: int) -> None:
    account.ask("lambda", "DeleteLayerVersion", LayerName=name, VersionNumber=number)


def _passes(code: str, said: str) -> bool:
    """Whether what Lambda refuses now it may take in a while."""
    if code == "ResourceConflictException":
        return "in progress" in said
    return code == "InvalidParameterValueException" and any(text in said for text in _ROLE_UNKNOWN)


def _check_layer(settings: Settings, layer: LayerZip) -> None:
    if layer.version != __version__:
        raise DeploymentError(
            f"the layer has cirrus-fast {layer.version}, and this is {__version__}: both must be "
            "the same; build it anew (cirrus-fast layer build)"
        )
    if (layer.python, layer.arch) != (settings.python, settings.arch):
        raise DeploymentError(
            f"the layer is for Python {layer.python} on {layer.arch}, and the function has "
            f"{settings.python} on {settings.arch}"
        )


def _differing_tags(there: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """Tags that others added stay."""
    return {key: value for key, value in wanted.items() if there.get(key) != value}


def _in_words(settings: Settings) -> str:
    place = "in a VPC" if settings.in_vpc else "outside any VPC"
    return f"python{settings.python}, {settings.arch}, {settings.memory} MB, {TIMEOUT_S} s, {place}"


def _workers(n: int | None) -> str:
    return "what the account has" if n is None else f"{n} workers"


def _numbers(layers: list[str]) -> str:
    """Of layers' versions; one that is not published yet has none."""
    return ", ".join(":".join(arn.split(":")[-2:]) for arn in layers) or "a new one"


def _short(sha256: str) -> str:
    return f"sha256 {sha256[:12]}"


def _json(policy: Policy) -> str:
    return json.dumps(policy)
