"""Passwords by the name of the place that keeps them."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest
from moto import mock_aws

from cirrus_fast import store_secret
from cirrus_fast.errors import OptionError, StoreError
from cirrus_fast.store_url import StoreUrl, parse_urls


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    store_secret.forget()
    yield
    store_secret.forget()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with mock_aws():
        yield


def password(name: str) -> str:
    return StoreUrl.parse(f"redis://h?password_from={name}").password


def test_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_PASSWORD", "hush")
    assert password("env:STORE_PASSWORD") == "hush"
    with pytest.raises(StoreError, match="the environment has no OTHER"):
        _ = password("env:OTHER")


@pytest.mark.usefixtures("aws")
def test_a_parameter_and_a_secret_of_aws() -> None:
    ssm = boto3.client("ssm", "us-east-1")
    ssm.put_parameter(Name="/store/password", Value="one", Type="SecureString")
    secrets = boto3.client("secretsmanager", "us-east-1")
    plain = secrets.create_secret(Name="plain", SecretString="two")
    secrets.create_secret(Name="made-by-aws", SecretString='{"username": "u", "password": "three"}')
    assert password("ssm:/store/password") == "one"
    assert password("secretsmanager:plain") == "two"
    assert password(f"secretsmanager:{plain['ARN']}") == "two"
    assert password("secretsmanager:made-by-aws") == "three"
    with pytest.raises(StoreError, match=r"\?password_from=ssm:/none: .*ParameterNotFound"):
        _ = password("ssm:/none")


@pytest.mark.usefixtures("aws")
def test_what_was_found_is_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    ssm = boto3.client("ssm", "us-east-1")
    ssm.put_parameter(Name="p", Value="old", Type="String")
    assert password("ssm:p") == "old"
    ssm.put_parameter(Name="p", Value="new", Type="String", Overwrite=True)
    assert password("ssm:p") == "old"
    monkeypatch.setattr(store_secret, "_KEPT_S", 0.0)
    assert password("ssm:p") == "new"


def test_the_name_is_part_of_what_is_shown_and_a_password_given_wins() -> None:
    (url,) = parse_urls("redis://:mine@h?password_from=env:NONE")
    assert url.shown == "redis://h:6379?password_from=env:NONE"
    assert url.password == "mine"


@pytest.mark.parametrize("name", ["", "hush", "env:", "vault:x"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match=r"must be one of env:NAME, ssm:NAME, secretsmanager"):
        StoreUrl.parse(f"redis://h?password_from={name}")
