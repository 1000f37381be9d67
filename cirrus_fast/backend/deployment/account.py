"""AWS as one set of credentials and one region see it: asked through boto3, with errors that say
what to do."""

from __future__ import annotations

import difflib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from cirrus_fast.backend.deployment.policies import Arns
from cirrus_fast.backend.deployment.settings import Settings
from cirrus_fast.errors import DeploymentError

Answer = dict[str, Any]

# What an operation is called where permissions are given, if not by its own name.
_ACTIONS = {"s3:HeadBucket": "s3:ListBucket", "lambda:Invoke": "lambda:InvokeFunction"}
_DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403")
_NO_CREDENTIALS = (
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "SignatureDoesNotMatch",
    "InvalidSignatureException",
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
)
_MISSING = ("ResourceNotFoundException", "NoSuchEntity", "NoSuchBucket", "404", "NotFound")
_REFUSED_ACTION = re.compile(r"not authorized to perform:? ([\w-]+:\w+)")


class DeniedError(DeploymentError):
    """An action that the credentials do not allow. `action` is its name in a policy."""

    def __init__(self, action: str, said: str) -> None:
        super().__init__(action, said)
        self.action = action
        self.said = said

    def __str__(self) -> str:
        return (
            f"not allowed: {self.action} ({self.said}); add it to the policy of these credentials "
            "(`cirrus-fast deploy --show-policies` has all it takes)"
        )


class RefusedError(DeploymentError):
    """What AWS says no to for another reason; `code` is AWS's name of it."""

    def __init__(self, code: str, action: str, said: str) -> None:
        super().__init__(code, action, said)
        self.code = code
        self.action = action
        self.said = said

    def __str__(self) -> str:
        return f"{self.action}: {self.code}: {self.said}"


class Account:
    """One account and region.

    Parameters
    ----------
    region : by default what AWS's conventions say
    session : boto3.Session, by default a new one
    sleep : waits; tests do not
    """

    def __init__(
        self,
        region: str | None = None,
        *,
        session: Any = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        import boto3
        from botocore.exceptions import BotoCoreError

        try:
            self.session = boto3.Session(region_name=region) if session is None else session
        except BotoCoreError as error:  # a profile that is not there
            raise DeploymentError(str(error)) from error
        self.sleep = sleep
        # boto3 knows AWS_DEFAULT_REGION alone of the two.
        named = region or os.environ.get("AWS_REGION") or self.session.region_name
        self.region = _known_region(self.session, named)
        self._clients: dict[str, Any] = {}
        self._identity: Answer | None = None

    # Who we are

    @property
    def id(self) -> str:
        return str(self._caller["Account"])

    @property
    def caller(self) -> str:
        """ARN of the user or assumed role."""
        return str(self._caller["Arn"])

    @property
    def caller_name(self) -> str:
        """The user or role, without the name of a session, which changes."""
        kind, *names = self.caller.rpartition(":")[2].split("/")
        return f"{kind}/{names[0] if kind == 'assumed-role' else names[-1]}" if names else kind

    @property
    def partition(self) -> str:
        return str(self.session.get_partition_for_region(self.region))

    @property
    def _caller(self) -> Answer:
        if self._identity is None:
            self._identity = self.ask("sts", "GetCallerIdentity")
        return self._identity

    def arns(self, settings: Settings) -> Arns:
        return Arns(settings, self.region, self.id, self.partition)

    # Asking

    def ask(self, service: str, operation: str, **given: Any) -> Answer:
        """One operation, by AWS's name for it.

        Raises
        ------
        DeniedError, RefusedError, DeploymentError : with what it was and what to do
        """
        from botocore import xform_name

        with _explained(service, operation):
            client = self._client(service)
            answer: Answer = getattr(client, xform_name(operation))(**given)
            return answer

    def find(self, service: str, operation: str, **given: Any) -> Answer | None:
        """The same, or None for what is not there."""
        try:
            return self.ask(service, operation, **given)
        except RefusedError as error:
            if error.code in _MISSING:
                return None
            raise

    def pages(self, service: str, operation: str, key: str, **given: Any) -> list[Answer]:
        """Everything that comes page by page; nothing where it is not there."""
        from botocore import xform_name

        found: list[Answer] = []
        try:
            with _explained(service, operation):
                paginator = self._client(service).get_paginator(xform_name(operation))
                for page in paginator.paginate(**given):
                    found += page[key]
        except RefusedError as error:
            if error.code not in _MISSING:
                raise
        return found

    def patiently(
        self,
        ask: Callable[[], Answer],
        delays: Iterable[float],
        passes: Callable[[str, str], bool],
    ) -> Answer:
        """Asks again after each of `delays` while AWS's refusal, as (code, text), is one that
        passes."""
        for delay in delays:
            try:
                return ask()
            except RefusedError as error:
                if not passes(error.code, error.said):
                    raise
            self.sleep(delay)
        return ask()

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            from botocore.config import Config

            config = Config(
                retries={"mode": "standard", "total_max_attempts": 5},
                connect_timeout=10,
                # Of an invocation, which may have a cold start and a slow network before it.
                read_timeout=120,
            )
            self._clients[service] = self.session.client(
                service, region_name=self.region, config=config
            )
        return self._clients[service]


@contextmanager
def _explained(service: str, operation: str) -> Iterator[None]:
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        EndpointConnectionError,
        NoCredentialsError,
    )

    name = f"{service}:{operation}"
    action = _ACTIONS.get(name, name)
    try:
        yield
    except ClientError as error:
        code = str(error.response["Error"].get("Code", "error"))
        said = str(error.response["Error"].get("Message", error)).rstrip(".")
        if code in _DENIED:
            # What an operation does besides is named in the text alone.
            named = _REFUSED_ACTION.search(said)
            raise DeniedError(named[1] if named else action, said) from error
        if code in _NO_CREDENTIALS:
            raise DeploymentError(
                f"AWS does not take these credentials: {code}: {said}; renew them (aws sso login), "
                "or name others (AWS_PROFILE)"
            ) from error
        raise RefusedError(code, action, said) from error
    except NoCredentialsError as error:
        raise DeploymentError(
            "no AWS credentials: set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or run `aws configure`"
        ) from error
    except EndpointConnectionError as error:
        raise DeploymentError(f"{error}; is there a network, and a proxy to name?") from error
    except BotoCoreError as error:
        raise DeploymentError(f"{name}: {error}") from error


def _known_region(session: Any, region: str | None) -> str:
    if region is None:
        raise DeploymentError("no AWS region: give --region, or set AWS_REGION")
    known = [
        one
        for partition in session.get_available_partitions()
        for one in session.get_available_regions("lambda", partition)
    ]
    if region not in known:
        near = difflib.get_close_matches(region, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "there is us-east-1, for one"
        raise DeploymentError(f"{region}: no region that this boto3 knows has Lambda: {hint}")
    return region
