"""Looks at a deployment from both sides and says, line by line, what is well and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cirrus_fast._version import __version__
from cirrus_fast.backend.deployment import network
from cirrus_fast.backend.deployment.account import Account, Answer, DeniedError
from cirrus_fast.backend.deployment.ownership import layer_versions
from cirrus_fast.backend.deployment.policies import (
    INLINE_NAME,
    Policy,
    locations,
    secrets,
    trust_policy,
)
from cirrus_fast.backend.deployment.policies import same as same_policy
from cirrus_fast.backend.deployment.settings import (
    DEPLOYMENT_TAG,
    HANDLER,
    TIMEOUT_S,
    VERSION_TAG,
    check_name,
    place,
)
from cirrus_fast.errors import DeploymentError
from cirrus_fast.runtime.kinds import CALL
from cirrus_fast.store_url import parse_urls

OK, WARN, FAIL = "ok", "warn", "fail"
_PROBE = "cirrus_fast.runtime.probe:probe"


@dataclass(frozen=True, slots=True)
class Check:
    """verdict : OK, WARN or FAIL; todo : what to do about it, "" if nothing"""

    name: str
    verdict: str
    found: str
    todo: str = ""


def examine(
    name: str,
    account: Account,
    *,
    data: Sequence[str] = (),
    stores: Sequence[str] = (),
    n_workers: int = 10,
) -> Iterator[Check]:
    """The checks, each when it is done; what cannot be looked at is no reason to stop.

    Parameters
    ----------
    data : s3:// locations that workers are to read, beside those of the policy deploy gave them
    stores : URLs of parameter stores that workers are to reach
    n_workers : workers at once that the account must allow
    """
    check_name(name)
    urls = [url.shown for text in stores for url in parse_urls(text)]
    for location in data:
        place(location)
    yield from _Doctor(name, account, data, urls, n_workers).examine()


class _Doctor:
    def __init__(
        self,
        name: str,
        account: Account,
        data: Sequence[str],
        stores: Sequence[str],
        n_workers: int,
    ) -> None:
        self._name = name
        self._account = account
        self._data = data
        self._stores = stores
        self._n_workers = n_workers
        self._policy: Policy = {}

    def examine(self) -> Iterator[Check]:
        account, name = self._account, self._name
        try:
            caller = account.caller
        except DeploymentError as error:
            yield Check("credentials", FAIL, str(error))
            return
        yield Check("credentials", OK, f"{caller}, account {account.id}")
        yield Check("region", OK, account.region)
        yield from self._looking("concurrency", self._concurrency)
        try:
            function = account.find("lambda", "GetFunctionConfiguration", FunctionName=name)
        except DeploymentError as error:
            yield _cannot("function", error)
            return
        if function is None:
            yield Check(
                "function",
                FAIL,
                f"there is no {name} in {account.region}",
                "cirrus-fast deploy, or another --region or --name",
            )
            return
        yield self._function(function)
        yield from self._looking("version", lambda: self._version(function))
        yield from self._looking("role", lambda: self._role(function))
        yield from self._looking("S3", self._buckets)
        yield from self._looking("network", lambda: self._network(function))
        if _state(function) != "":
            yield Check("inside", WARN, "not asked: the function cannot be used", "see above")
        else:
            yield from self._looking("inside", self._inside)

    def _looking(self, name: str, look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
        try:
            yield from look()
        except DeploymentError as error:
            yield _cannot(name, error)

    # From outside

    def _concurrency(self) -> Iterator[Check]:
        limit = self._account.ask("lambda", "GetAccountSettings")["AccountLimit"]
        most = limit.get("UnreservedConcurrentExecutions", limit["ConcurrentExecutions"])
        reserved = self._account.find("lambda", "GetFunctionConcurrency", FunctionName=self._name)
        here = (reserved or {}).get("ReservedConcurrentExecutions")
        found = f"{here} workers reserved" if here is not None else f"{most} workers at once"
        if (most if here is None else here) >= self._n_workers:
            yield Check("concurrency", OK, found)
            return
        todo = (
            f"deploy with --reserved-concurrency {self._n_workers}"
            if here is not None
            else "ask for more: Service Quotas, AWS Lambda, Concurrent executions"
        )
        yield Check("concurrency", FAIL, f"{found}, and {self._n_workers} are wanted", todo)

    def _function(self, function: Answer) -> Check:
        shown = (
            f"{function['Runtime']}, {function['Architectures'][0]}, {function['MemorySize']} MB, "
            f"{function['Timeout']} s"
        )
        trouble = _state(function)
        if trouble:
            return Check("function", FAIL, trouble, "wait, or cirrus-fast deploy again")
        if function["Handler"] != HANDLER or not function.get("Layers"):
            return Check("function", FAIL, "its handler or layer is not ours", "cirrus-fast deploy")
        if function["Timeout"] != TIMEOUT_S:
            return Check("function", WARN, shown, f"{TIMEOUT_S} s are usual: cirrus-fast deploy")
        return Check("function", OK, shown)

    def _version(self, function: Answer) -> Iterator[Check]:
        arn = function["FunctionArn"]
        tags = self._account.ask("lambda", "ListTags", Resource=arn)["Tags"]
        if tags.get(DEPLOYMENT_TAG) != self._name:
            yield Check("version", WARN, "not made by cirrus-fast deploy", "choose another --name")
            return
        there = tags.get(VERSION_TAG)
        if there != __version__:
            found = f"the function has cirrus-fast {there}, and this is {__version__}"
            yield Check("version", FAIL, found, "cirrus-fast deploy, or install that version")
            return
        used = {layer["Arn"] for layer in function.get("Layers", ())}
        ours = layer_versions(self._account, self._name)
        numbers = [n for n, (layer, _) in ours.items() if layer in used]
        if not numbers:
            yield Check("version", WARN, "its layer is gone, or not ours", "cirrus-fast deploy")
        else:
            yield Check("version", OK, f"cirrus-fast {there}, layer version {numbers[0]}")

    def _role(self, function: Answer) -> Iterator[Check]:
        role = str(function["Role"]).rpartition("/")[2]
        found = self._account.find("iam", "GetRole", RoleName=role)
        if found is None:
            yield Check("role", FAIL, f"{role} is gone", "cirrus-fast deploy makes it again")
            return
        kept = self._account.find("iam", "GetRolePolicy", RoleName=role, PolicyName=INLINE_NAME)
        if kept is not None:
            self._policy = kept["PolicyDocument"]
        trusted = same_policy(found["Role"]["AssumeRolePolicyDocument"], trust_policy())
        if kept is None or not trusted:
            what = "lacks the policy" if kept is None else "trusts others than Lambda"
            yield Check("role", WARN, f"{role} {what} that deploy gives", "cirrus-fast deploy")
        else:
            yield Check("role", OK, f"{role}, one policy of deploy's")

    @property
    def _locations(self) -> tuple[list[str], list[str]]:
        """To read only, and to write."""
        read, write = locations(self._policy)
        more = [one.rstrip("/") for one in self._data]
        return [*read, *(one for one in more if one not in (*read, *write))], list(write)

    def _buckets(self) -> Iterator[Check]:
        read, write = self._locations
        buckets = dict.fromkeys(place(one)[0] for one in (*write, *read))
        if not buckets:
            yield Check(
                "S3", WARN, "no policy of deploy's names data", "say where they are: --data"
            )
        for bucket in buckets:
            name = f"s3://{bucket}"
            try:
                found = self._account.find("s3", "HeadBucket", Bucket=bucket)
            except DeniedError as error:
                yield _cannot(name, error)
                continue
            there = (found or {}).get("BucketRegion", self._account.region)
            if found is None:
                yield Check(name, FAIL, "there is no such bucket", "cirrus-fast deploy --data")
            elif there != self._account.region:
                yield Check(name, WARN, f"is in {there}", f"deploy there: --region {there}")
            else:
                yield Check(name, OK, f"in {there}, and can be listed from here")

    def _network(self, function: Answer) -> Iterator[Check]:
        subnets = function.get("VpcConfig", {}).get("SubnetIds") or []
        if not subnets:
            yield Check("network", OK, "outside any VPC: S3 is reached, a private store is not")
            return
        vpc = network.Vpc.of(self._account, subnets)
        for subnet in subnets:
            route, name = vpc.route(subnet, "s3"), f"network {subnet}"
            if route.way == "gateway":
                yield Check(name, OK, f"S3 gateway endpoint in {route.table} of {vpc.id}")
            else:
                verdict = FAIL if route.way is None else WARN
                found = f"no S3 gateway endpoint in {route.table} of {vpc.id}"
                yield Check(name, verdict, found, vpc.advice(route))
        for service in network.secret_services(secrets(self._policy)):
            if vpc.reaches(subnets, service):
                yield Check(f"network {service}", OK, f"there is a way from {vpc.id}")
            else:
                yield Check(f"network {service}", FAIL, "unreachable", vpc.no_way_to(service))

    # From inside

    def _inside(self) -> Iterator[Check]:
        read, write = self._locations
        answer = self._invoke([read, write, list(self._stores)])
        yield Check(
            "inside",
            OK,
            f"cirrus-fast {answer['version']}, Python {answer['python']}, {answer['machine']}, "
            f"{answer['impl']} kernels, {answer['memory']} MB",
        )
        for verb in ("read", "write"):
            for location, outcome in answer[verb].items():
                yield _seen(
                    f"{verb} {location}",
                    outcome,
                    "a role's policy, a bucket's or a key's forbids it, or there is no way to it",
                )
        for url, outcome in answer["stores"].items():
            module = answer["modules"].get(url)
            with_module = f", with our module {module}" if module else ", without our module"
            yield _seen(
                f"store {url}",
                outcome,
                "workers must be in its VPC (--subnet, --security-group), and its security group "
                "must let them in",
                with_module,
            )
        if not self._stores:
            yield Check("store", WARN, "none was named", "give its URL: --store redis://...")

    def _invoke(self, arguments: list[Any]) -> Mapping[str, Any]:
        event = {"cirrus_fast": __version__, "kind": CALL, "function": _PROBE}
        given = json.dumps(event | {"arguments": arguments})
        response = self._account.ask(
            "lambda", "Invoke", FunctionName=self._name, Payload=given.encode()
        )
        try:
            answer = json.loads(response["Payload"].read())
        except ValueError as error:
            raise DeploymentError(f"function {self._name}: its answer is no JSON") from error
        if response.get("FunctionError"):
            said = answer.get("errorMessage", "an error without a message")
            raise DeploymentError(
                f"function {self._name}: {said}; its log says more: log group "
                f"/aws/lambda/{self._name}"
            )
        if isinstance(answer, Mapping) and "error" in answer:
            raise DeploymentError(f"function {self._name}: {answer['error'][1]}")
        if not isinstance(answer, Mapping) or "answer" not in answer:
            raise DeploymentError(f"function {self._name}: its answer is none of cirrus-fast's")
        found: Mapping[str, Any] = answer["answer"]
        return found


def _state(function: Answer) -> str:
    """Why a function cannot be used; "" if it can."""
    state, update = function.get("State", "Active"), function.get("LastUpdateStatus", "Successful")
    if state not in ("Active", "Inactive"):
        return f"{state}: {function.get('StateReason', 'Lambda does not say why')}"
    if update != "Successful":
        why = function.get("LastUpdateStatusReason", "Lambda does not say why")
        return f"update {update}: {why}"
    return ""


def _seen(name: str, outcome: Mapping[str, Any], todo: str, more: str = "") -> Check:
    trouble = outcome["trouble"]
    if trouble is None:
        return Check(f"inside: {name}", OK, f"reached in {outcome['seconds']:.3f} s{more}")
    return Check(f"inside: {name}", FAIL, str(trouble), todo)


def _cannot(name: str, error: DeploymentError) -> Check:
    """What may not be looked at may be well; what goes wrong otherwise is not."""
    if isinstance(error, DeniedError):
        return Check(name, WARN, f"not looked at: {error.action} is not allowed", "see the policy")
    return Check(name, FAIL, str(error))
