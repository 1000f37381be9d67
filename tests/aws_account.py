"""An AWS account in this process (moto's), with refusals to order and a log of what was asked."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import boto3
import botocore.session
from botocore.loaders import Loader
from moto import mock_aws

import cirrus_fast
from cirrus_fast.backend.deployment.account import Account
from cirrus_fast.backend.deployment.deploy import plan_deployment
from cirrus_fast.backend.deployment.layer_zip import LayerZip, read_layer
from cirrus_fast.backend.deployment.plan import Plan
from cirrus_fast.backend.deployment.settings import Settings

REGION = "us-east-1"
# Before a call is sent: its operation and parameters -> an error (code, text), an answer, or None.
Refusal = Callable[[str, Mapping[str, Any]], tuple[str, str] | Mapping[str, Any] | None]


def layer_bytes(
    python: str = "3.12", machine: str = "x86_64", version: str = cirrus_fast.__version__, more="x"
) -> bytes:
    """What is in a layer's zip that tells what it is for."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        digits = python.replace(".", "")
        for name in (
            f"python/cirrus_fast-{version}.dist-info/METADATA",
            f"python/numpy/_core/_multiarray_umath.cpython-{digits}-{machine}-linux-gnu.so",
        ):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), more)
    return packed.getvalue()


# AWS's descriptions of its services, which take longer to read than a test to run.
_LOADER = Loader()


def _session(region: str, **credentials: str) -> boto3.Session:
    core = botocore.session.get_session()
    core.register_component("data_loader", _LOADER)
    return boto3.Session(botocore_session=core, region_name=region, **credentials)


class AwsAccount:
    """The account, with a bucket "data".

    Attributes
    ----------
    asked : operations, as "lambda:CreateFunction", with what was given
    refuse : what is refused or answered without being sent
    slept : seconds that would have been waited
    """

    def __init__(self, tmp_path: Any) -> None:
        self._tmp_path = tmp_path
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.refuse: Refusal = lambda _operation, _given: None
        self.slept: list[float] = []
        self.client("s3").create_bucket(Bucket="data")
        self.asked.clear()

    def client(self, service: str, region: str = REGION) -> Any:
        """For the test itself: not in the log, never refused."""
        return _session(region).client(service)

    def account(self, region: str = REGION, **credentials: str) -> Account:
        session = _session(region, **credentials)
        session.events.register("before-call.*", self._before)
        return Account(session=session, sleep=self.slept.append)

    def _before(self, model: Any, params: Any, request_signer: Any, context: Any, **_: Any) -> Any:
        operation = f"{model.service_model.service_name}:{model.name}"
        given = (
            json.loads(params["body"]) if _is_json(params["body"]) else dict(params["body"] or {})
        )
        given |= {"path": params["url_path"], "url": params["url"]}
        self.asked.append((operation, given))
        answer = self.refuse(operation, given)
        if answer is None and operation == "lambda:GetAccountSettings":  # which moto has not
            limits = {"ConcurrentExecutions": 1000, "UnreservedConcurrentExecutions": 1000}
            answer = {"AccountLimit": limits}
        if answer is None:
            return None
        if isinstance(answer, tuple):
            code, text = answer
            body: dict[str, Any] = {"Error": {"Code": code, "Message": text}}
            body["ResponseMetadata"] = {"HTTPStatusCode": 400}
            return _Http(400), body
        return _Http(200), {"ResponseMetadata": {"HTTPStatusCode": 200}, **answer}

    @property
    def operations(self) -> list[str]:
        return [operation for operation, _ in self.asked]

    @property
    def writes(self) -> list[str]:
        """Operations that may have changed something."""
        looks = ("Get", "List", "Describe", "Head")
        return [one for one in self.operations if not one.partition(":")[2].startswith(looks)]

    def layer(self, content: bytes | None = None) -> LayerZip:
        path = self._tmp_path / "layer.zip"
        path.write_bytes(layer_bytes() if content is None else content)
        return read_layer(path)

    def plan(
        self, layer: LayerZip | None = None, account: Account | None = None, **settings: Any
    ) -> Plan:
        settings = {"data": ("s3://data/rows",)} | settings
        return plan_deployment(
            Settings(**settings),
            self.layer() if layer is None else layer,
            self.account() if account is None else account,
        )

    def deploy(self, **given: Any) -> Plan:
        plan = self.plan(**given)
        plan.apply()
        return plan

    def function(self, name: str = "cirrus-fast") -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.client("lambda").get_function(FunctionName=name)
        return found


class _Http:
    def __init__(self, status: int) -> None:
        self.status_code = status
        self.headers: dict[str, str] = {}


def _is_json(body: Any) -> bool:
    return isinstance(body, bytes | str) and body[:1] in (b"{", "{")


def in_account() -> Any:
    return mock_aws(config={"lambda": {"use_docker": False}})
