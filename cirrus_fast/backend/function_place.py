"""Which Lambda function runs workers, and where it is: what `configure` set, else the environment.

Region, credentials, profile and endpoint follow AWS's own conventions (AWS_REGION, AWS_PROFILE,
AWS_ENDPOINT_URL_LAMBDA, ...), which boto3 looks up by itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from cirrus_fast.errors import FunctionError

FUNCTION_VARIABLE = "CIRRUS_FAST_FUNCTION"
DEFAULT_FUNCTION = "cirrus-fast"


@dataclass(frozen=True, slots=True)
class FunctionPlace:
    """None: as the environment says.

    Attributes
    ----------
    function : name or ARN, with or without a version
    region : AWS's name of it
    endpoint : URL of another Lambda than AWS's, such as `cirrus-fast local-lambda`
    """

    function: str | None = None
    region: str | None = None
    endpoint: str | None = None

    @property
    def name(self) -> str:
        return self.function or os.environ.get(FUNCTION_VARIABLE) or DEFAULT_FUNCTION

    def client(self, service: str, **more: Any) -> Any:
        """A boto3 client; `more` goes to its Config."""
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, NoRegionError

        try:
            return boto3.session.Session().client(
                service,
                # boto3 knows AWS_DEFAULT_REGION alone; other SDKs, and functions, have AWS_REGION.
                region_name=self.region or os.environ.get("AWS_REGION"),
                endpoint_url=self.endpoint if service == "lambda" else None,
                config=Config(**more),
            )
        except NoRegionError as error:
            raise FunctionError(
                f"no AWS region is set for function {self.name}: "
                "set AWS_REGION, or configure(region=...)"
            ) from error
        except (BotoCoreError, ValueError) as error:
            raise FunctionError(f"function {self.name}: {error}") from error


_place = FunctionPlace()


def set_place(**changes: str | None) -> None:
    """Changes fields of the place; None goes back to the environment."""
    global _place
    _place = replace(_place, **changes)


def function_place() -> FunctionPlace:
    return _place
