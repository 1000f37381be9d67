"""A store's password by the name of the place that keeps it, looked up where it is used.

    env:NAME               a variable of the environment
    ssm:NAME               a parameter of AWS Systems Manager
    secretsmanager:NAME    a secret of AWS Secrets Manager, by name or ARN; where it is a JSON
                           object, its "password"

Names travel, in URLs, events and logs; passwords do not.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from cirrus_fast.errors import OptionError, StoreError

_KINDS = ("env", "ssm", "secretsmanager")
# A password that was changed is noticed after so long by a function that stays warm.
_KEPT_S = 300.0

_kept: dict[str, tuple[float, str]] = {}


def check(name: str) -> None:
    """Raises OptionError for what is no name of a place."""
    kind, _, rest = name.partition(":")
    if kind not in _KINDS or not rest:
        known = ", ".join(f"{kind}:NAME" for kind in _KINDS)
        raise OptionError(f"param_store: ?password_from={name}: must be one of {known}")


def look_up(name: str) -> str:
    """The password; what was found is kept for a while."""
    found = _kept.get(name)
    if found is not None and time.monotonic() - found[0] < _KEPT_S:
        return found[1]
    kind, _, rest = name.partition(":")
    password = _variable(rest) if kind == "env" else _ask(kind, rest)
    _kept[name] = time.monotonic(), password
    return password


def forget() -> None:
    """Looks everything up again."""
    _kept.clear()


def _variable(name: str) -> str:
    password = os.environ.get(name)
    if password is None:
        raise StoreError(f"?password_from=env:{name}: the environment has no {name}")
    return password


def _ask(kind: str, name: str) -> str:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        region = os.environ.get("AWS_REGION")
        client = boto3.session.Session().client(kind, region_name=region)
        if kind == "ssm":
            parameter: Any = client.get_parameter(Name=name, WithDecryption=True)
            return str(parameter["Parameter"]["Value"])
        return _password_in(str(client.get_secret_value(SecretId=name)["SecretString"]))
    except (BotoCoreError, ClientError, KeyError) as error:
        raise StoreError(f"?password_from={kind}:{name}: {error}") from error


def _password_in(text: str) -> str:
    """AWS's own forms keep a JSON object with user and password."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    if isinstance(found, dict):
        return str(found["password"])
    return text
