"""Requests to S3, signed without boto3 where the environment says everything."""

from __future__ import annotations

import calendar
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from cirrus_fast.data import s3_signing
from cirrus_fast.data.s3_signing import BotoSigner, EnvironmentSigner, signer

NOW = calendar.timegm((2026, 1, 2, 3, 4, 5))
LAMBDA = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    "AWS_SESSION_TOKEN": "a/token+with=signs",
    "AWS_REGION": "eu-west-1",
    "AWS_CONFIG_FILE": "/nowhere/config",
}


def theirs(environment, url, headers):
    """What botocore makes of the same request at the same time."""
    request = AWSRequest("GET", url, headers=headers)
    credentials = Credentials(
        environment["AWS_ACCESS_KEY_ID"],
        environment["AWS_SECRET_ACCESS_KEY"],
        environment.get("AWS_SESSION_TOKEN"),
    )
    auth = S3SigV4Auth(credentials, "s3", environment["AWS_REGION"])
    request.context["timestamp"] = headers["x-amz-date"]
    auth.add_auth(request)
    return request.headers["Authorization"]


@pytest.fixture
def _stopped_clock(monkeypatch):
    import datetime

    import botocore.auth

    monkeypatch.setattr(
        botocore.auth,
        "get_current_datetime",
        lambda *_a, **_k: datetime.datetime(2026, 1, 2, 3, 4, 5),
        raising=False,
    )


@pytest.mark.usefixtures("_stopped_clock")
@pytest.mark.parametrize("key", ["plain", "a/b c/ü~%+&=?#é.cfs", "shard-00000001-00000.cfs"])
@pytest.mark.parametrize("token", [True, False])
def test_signatures_are_botocores(key, token):
    environment = {k: v for k, v in LAMBDA.items() if token or k != "AWS_SESSION_TOKEN"}
    found = EnvironmentSigner.find(environment)
    assert found is not None
    ours = EnvironmentSigner(found.region, found.endpoint, environment, lambda: NOW)
    request = ours.get("bucket", key)
    assert (request.scheme, request.host) == ("https", "bucket.s3.eu-west-1.amazonaws.com")
    headers = {k: v for k, v in request.headers.items() if k not in ("authorization", "host")}
    url = f"https://{request.host}{request.target}"
    expected = theirs(environment, url, headers)
    assert request.headers["authorization"].replace(", ", ",") == expected.replace(", ", ",")


def test_a_bucket_with_a_dot_goes_into_the_path_since_certificates_cover_one_level():
    request = EnvironmentSigner("us-east-1", None, LAMBDA).get("my.bucket", "key")
    assert (request.host, request.target) == ("s3.us-east-1.amazonaws.com", "/my.bucket/key")


def test_china_has_a_domain_of_its_own():
    request = EnvironmentSigner("cn-north-1", None, LAMBDA).get("bucket", "key")
    assert request.host == "bucket.s3.cn-north-1.amazonaws.com.cn"


def test_an_endpoint_of_the_environment_is_asked_with_the_bucket_in_the_path():
    environment = LAMBDA | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000/base/"}
    found = EnvironmentSigner.find(environment)
    assert found is not None
    request = found.get("bucket", "a/key")
    assert (request.scheme, request.host) == ("http", "127.0.0.1:9000")
    assert request.target == "/base/bucket/a/key"
    own = environment | {"AWS_ENDPOINT_URL_S3": "http://s3.local"}
    found = EnvironmentSigner.find(own)
    assert found is not None
    assert found.get("bucket", "key").host == "s3.local"
    ignored = own | {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}
    found = EnvironmentSigner.find(ignored)
    assert found is not None
    assert found.endpoint is None


@pytest.mark.parametrize(
    "change",
    [
        {"AWS_REGION": ""},
        {"AWS_ACCESS_KEY_ID": ""},
        {"AWS_SECRET_ACCESS_KEY": ""},
        {"AWS_PROFILE": "work"},
        {"AWS_CONFIG_FILE": __file__},
        {"AWS_USE_FIPS_ENDPOINT": "true"},
        {"AWS_USE_DUALSTACK_ENDPOINT": "true"},
    ],
)
def test_boto3_is_asked_wherever_it_might_know_better(change):
    assert isinstance(signer(lambda: None, LAMBDA | change), BotoSigner)
    assert isinstance(signer(lambda: None, LAMBDA), EnvironmentSigner)


def test_the_payer_is_signed(monkeypatch):
    monkeypatch.setenv(s3_signing.REQUEST_PAYER, "requester")
    request = EnvironmentSigner("us-east-1", None, LAMBDA).get("bucket", "key")
    assert request.headers["x-amz-request-payer"] == "requester"
    assert "x-amz-request-payer" in request.headers["authorization"]


def test_boto3s_addresses_name_the_payer(s3, monkeypatch):
    from cirrus_fast.data.s3 import client

    monkeypatch.setenv(s3_signing.REQUEST_PAYER, "requester")
    request = BotoSigner(client).get("bucket", "key")
    assert "requester" in request.target
    assert urlsplit(s3.url).netloc == request.host
