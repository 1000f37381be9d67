"""What holds for a whole program, set once."""

from __future__ import annotations

import os
from typing import Any, Final

# Not given, which is not None: that goes back to the default.
_UNCHANGED: Final[Any] = object()


def configure(
    *,
    storage: str | os.PathLike[str] | None = _UNCHANGED,
    function: str | None = _UNCHANGED,
    region: str | None = _UNCHANGED,
    endpoint: str | None = _UNCHANGED,
) -> None:
    """Sets what is given; None goes back to the environment's or the default.

    Parameters
    ----------
    storage : root that bare data set names lie under, a folder or s3://bucket/prefix
    function : Lambda function of executor="lambda", by name or ARN (CIRRUS_FAST_FUNCTION)
    region, endpoint : where that is (AWS_REGION, AWS_ENDPOINT_URL_LAMBDA)
    """
    if storage is not _UNCHANGED:
        from cirrus_fast.data.storage import configure as set_root

        set_root(storage=storage)
    places = {"function": function, "region": region, "endpoint": endpoint}
    changes = {name: value for name, value in places.items() if value is not _UNCHANGED}
    if changes:
        from cirrus_fast.backend.function_place import set_place

        set_place(**changes)
