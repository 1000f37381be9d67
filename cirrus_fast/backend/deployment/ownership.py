"""Whose things are: the tags that deploy leaves on what it makes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cirrus_fast._version import __version__
from cirrus_fast.backend.deployment.account import Account
from cirrus_fast.backend.deployment.settings import (
    DEPLOYMENT_TAG,
    OWNER_TAG,
    VERSION_TAG,
    Settings,
    tag_value,
)
from cirrus_fast.errors import DeploymentError

# Versions of a layer have no tags.
_LAYER_TEXT = re.compile(r"cirrus-fast (\S+), deployment (\S+), sha256 ([0-9a-f]{64})")


def owner_of(owner: str | None, account: Account) -> str:
    return tag_value(account.caller_name) if owner is None else owner


def tags_of(settings: Settings, account: Account) -> dict[str, str]:
    """On everything that is made."""
    ours = {
        DEPLOYMENT_TAG: settings.name,
        OWNER_TAG: owner_of(settings.owner, account),
        VERSION_TAG: __version__,
    }
    return dict(settings.tags) | ours


def check_ours(what: str, tags: Mapping[str, str], name: str, owner: str) -> None:
    """
    Raises
    ------
    DeploymentError : another made it
    """
    if tags.get(DEPLOYMENT_TAG) != name:
        raise DeploymentError(
            f"{what} is there, and cirrus-fast did not make it (it has no tag {DEPLOYMENT_TAG} = "
            f"{name}); choose another --name"
        )
    theirs = tags.get(OWNER_TAG)
    if theirs != owner:
        raise DeploymentError(
            f"{what} is {theirs}'s (tag {OWNER_TAG}), and this is {owner}; choose another --name, "
            f"or say --owner {theirs} to change it all the same"
        )


def from_list(tags: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """IAM and EC2 have them as pairs."""
    return {tag["Key"]: tag["Value"] for tag in tags}


def to_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def layer_text(name: str, sha256: str) -> str:
    return f"cirrus-fast {__version__}, deployment {name}, sha256 {sha256}"


def layer_versions(account: Account, name: str) -> dict[int, tuple[str, str]]:
    """Those of a deployment: number -> (ARN, SHA-256 of the zip), newest first."""
    found: dict[int, tuple[str, str]] = {}
    rows: list[dict[str, Any]] = account.pages(
        "lambda", "ListLayerVersions", "LayerVersions", LayerName=name
    )
    for row in sorted(rows, key=lambda row: -int(row["Version"])):
        text = _LAYER_TEXT.fullmatch(row.get("Description", ""))
        if text and text[2] == name:
            found[int(row["Version"])] = row["LayerVersionArn"], text[3]
    return found
