"""Addresses and signatures of GET requests to S3.

boto3 costs a worker a quarter of a second to import, more than its first block takes to arrive. So
where the environment says everything (as on AWS Lambda: credentials, region, no configuration
file), requests are signed here; everywhere else boto3 is asked, and every kind of credentials,
profile, role and addressing it knows works.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from cirrus_fast.errors import StorageError

REQUEST_PAYER = "CIRRUS_FAST_S3_REQUEST_PAYER"
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
# Presigned addresses are used at once; this allows for retries.
_PRESIGNED_S = 900


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask of whom."""

    scheme: str
    host: str  # with the port, if it is not the scheme's own
    target: str  # path and query
    headers: Mapping[str, str]


class Signer(Protocol):
    """Makes GET requests. May be called on many threads."""

    def get(self, bucket: str, key: str) -> Request:
        """A request that is good for some minutes; a Range header may be added."""

    def renew(self) -> bool:
        """The credentials have expired: looks for others. Whether there may be any."""


def request_payer() -> str | None:
    """Who pays for requests to buckets of others: "requester", or None."""
    return os.environ.get(REQUEST_PAYER) or None


def signer(
    client: Callable[[], Any],
    environment: Mapping[str, str] = os.environ,
    *,
    renew: Callable[[], object] | None = None,
) -> Signer:
    """`client` makes a boto3 client, should one be needed; `renew` lets the next be a new one."""
    found = EnvironmentSigner.find(environment)
    return BotoSigner(client, renew) if found is None else found


class BotoSigner:
    """boto3's presigned addresses."""

    def __init__(
        self, client: Callable[[], Any], renew: Callable[[], object] | None = None
    ) -> None:
        self._client, self._renew = client, renew

    def renew(self) -> bool:
        if self._renew is None:
            return False
        self._renew()
        return True

    def get(self, bucket: str, key: str) -> Request:
        from botocore.exceptions import BotoCoreError

        params = {"Bucket": bucket, "Key": key}
        payer = request_payer()
        if payer is not None:
            params["RequestPayer"] = payer
        try:
            signed = self._client().generate_presigned_url(
                "get_object", params, ExpiresIn=_PRESIGNED_S
            )
        except BotoCoreError as error:
            raise StorageError(f"s3://{bucket}/{key}: {error}") from error
        url = urlsplit(signed)
        # What boto3 signs, it wants sent; a payer it puts into the query.
        return Request(url.scheme, url.netloc, f"{url.path}?{url.query}", {})


@dataclass(frozen=True, slots=True)
class EnvironmentSigner:
    """AWS Signature Version 4 with what the environment holds at the time of the request.

    https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    """

    region: str
    endpoint: str | None
    environment: Mapping[str, str]
    clock: Callable[[], float] = time.time

    @classmethod
    def find(cls, environment: Mapping[str, str]) -> EnvironmentSigner | None:
        """None if there is anything that boto3 might know better."""
        region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
        keys = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
        config = environment.get("AWS_CONFIG_FILE") or "~/.aws/config"
        if not region or not all(keys) or environment.get("AWS_PROFILE"):
            return None
        if Path(config).expanduser().exists():
            return None
        if any(environment.get(name, "").lower() == "true" for name in _VARIANTS):
            return None
        ignored = environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true"
        endpoint = None
        if not ignored:
            endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
        if endpoint and not endpoint.lower().startswith(("http://", "https://")):
            raise StorageError(
                f"AWS_ENDPOINT_URL: {endpoint} does not say how to talk to it; "
                f"give http://{endpoint} or https://{endpoint}"
            )
        return cls(region, endpoint or None, environment)

    def get(self, bucket: str, key: str) -> Request:
        path = "/" + quote(key, safe="/~")
        if self.endpoint is not None:
            base = urlsplit(self.endpoint)
            scheme, host = base.scheme, base.netloc
            path = f"{base.path.rstrip('/')}/{bucket}{path}"
        else:
            domain = f"s3.{self.region}.amazonaws.com"
            if self.region.startswith("cn-"):
                domain += ".cn"
            scheme, host = "https", f"{bucket}.{domain}"
            if "." in bucket:  # the certificate is for one level of names
                host, path = domain, f"/{bucket}{path}"
        return Request(scheme, host, path, self._headers(host, path))

    def renew(self) -> bool:
        """They are looked up for each request: there are no others."""
        return False

    def _headers(self, host: str, path: str) -> dict[str, str]:
        now = time.gmtime(self.clock())
        stamp, day = time.strftime("%Y%m%dT%H%M%SZ", now), time.strftime("%Y%m%d", now)
        headers = {"host": host, "x-amz-content-sha256": _EMPTY_SHA256, "x-amz-date": stamp}
        token, payer = self.environment.get("AWS_SESSION_TOKEN"), request_payer()
        if token:
            headers["x-amz-security-token"] = token
        if payer:
            headers["x-amz-request-payer"] = payer
        names = ";".join(sorted(headers))
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        canonical = f"GET\n{path}\n\n{lines}\n{names}\n{_EMPTY_SHA256}"
        scope = f"{day}/{self.region}/s3/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        secret = f"AWS4{self.environment['AWS_SECRET_ACCESS_KEY']}".encode()
        for part in scope.split("/"):
            secret = hmac.digest(secret, part.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
        signature = hmac.digest(secret, text.encode(), "sha256").hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.environment['AWS_ACCESS_KEY_ID']}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return headers


_VARIANTS = ("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT")
