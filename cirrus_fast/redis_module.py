"""Where the module for Redis and Valkey lies, which makes them parameter servers."""

from __future__ import annotations

from pathlib import Path

from cirrus_fast.errors import CirrusFastError


def redis_module_path() -> str:
    """The file for Redis's `loadmodule`, in full. It needs no Python and may be copied elsewhere.

    Raises
    ------
    CirrusFastError : the package was built without it
    """
    path = Path(__file__).resolve().with_name("cirrus.so")
    if not path.exists():
        raise CirrusFastError(
            f"{path} is missing: this installation was built without the module for Redis"
        )
    return str(path)
