"""Takes away what deploy made, told by its tags, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from cirrus_fast.backend.deployment.account import Account
from cirrus_fast.backend.deployment.deploy import delete_layer, find_log_group
from cirrus_fast.backend.deployment.ownership import (
    check_ours,
    from_list,
    layer_versions,
    owner_of,
)
from cirrus_fast.backend.deployment.plan import DELETE, KEEP, Plan, Step
from cirrus_fast.backend.deployment.policies import INLINE_NAME
from cirrus_fast.backend.deployment.settings import check_name, log_group_of, role_name


def plan_removal(
    name: str, account: Account, *, owner: str | None = None, keep_logs: bool = False
) -> Plan:
    """What `apply` would take away: the function first, so that nothing runs without a role.

    Raises
    ------
    DeploymentError : not allowed to look, or something of that name is another's
    """
    check_name(name)
    return _Removal(name, account, owner_of(owner, account), keep_logs).plan()


class _Removal:
    def __init__(self, name: str, account: Account, owner: str, keep_logs: bool) -> None:
        self._name = name
        self._account = account
        self._owner = owner
        self._keep_logs = keep_logs

    def plan(self) -> Plan:
        plan = Plan()
        plan.steps += self._function()
        plan.steps += self._logs()
        plan.steps += self._layers()
        plan.steps += self._role()
        plan.notes.append("data in S3, secrets, the VPC and its endpoints, and stores stay")
        return plan

    def _function(self) -> Iterator[Step]:
        account, name = self._account, self._name
        what = f"function {name}"
        found = account.find("lambda", "GetFunctionConfiguration", FunctionName=name)
        if found is None:
            yield Step(what, KEEP, f"there is none in {account.region}")
            return
        tags = account.ask("lambda", "ListTags", Resource=found["FunctionArn"])["Tags"]
        check_ours(what, tags, name, self._owner)
        reason = "made by deploy"
        if found.get("VpcConfig", {}).get("SubnetIds"):
            reason += "; Lambda takes up to 20 minutes to give its network interfaces back"
        yield Step(
            what,
            DELETE,
            reason,
            lambda: account.ask("lambda", "DeleteFunction", FunctionName=name),
        )

    def _logs(self) -> Iterator[Step]:
        account, name = self._account, log_group_of(self._name)
        what = f"log group {name}"
        found = find_log_group(account, name)
        if found is None:
            yield Step(what, KEEP, "there is none")
            return
        arn = str(found["arn"]).removesuffix(":*")
        tags = account.ask("logs", "ListTagsForResource", resourceArn=arn)["tags"]
        check_ours(what, tags, self._name, self._owner)
        if self._keep_logs:
            days = found.get("retentionInDays")
            yield Step(what, KEEP, f"as asked; its lines go after {days} days, it does not")
            return
        yield Step(
            what,
            DELETE,
            "made by deploy",
            lambda: account.ask("logs", "DeleteLogGroup", logGroupName=name),
        )

    def _layers(self) -> Iterator[Step]:
        account, name = self._account, self._name
        versions = layer_versions(account, name)
        for number in versions:
            yield Step(
                f"layer {name}:{number}",
                DELETE,
                "made by deploy",
                lambda number=number: delete_layer(account, name, number),  # type: ignore[misc]
            )
        if not versions:
            yield Step(f"layer {name}", KEEP, "there is none of deploy's")

    def _role(self) -> Iterator[Step]:
        account, name = self._account, role_name(self._name, self._account.region)
        what = f"role {name}"
        found = account.find("iam", "GetRole", RoleName=name)
        if found is None:
            yield Step(what, KEEP, "there is none")
            return
        check_ours(what, from_list(found["Role"].get("Tags", ())), self._name, self._owner)

        def delete() -> None:
            account.find("iam", "DeleteRolePolicy", RoleName=name, PolicyName=INLINE_NAME)
            account.ask("iam", "DeleteRole", RoleName=name)

        yield Step(what, DELETE, "made by deploy", delete)
