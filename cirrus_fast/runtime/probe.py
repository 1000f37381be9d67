"""What a worker can reach from where it runs: called in the function by `cirrus-fast doctor`."""

from __future__ import annotations

import errno
import os
import platform
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from cirrus_fast import _kernels
from cirrus_fast._version import __version__
from cirrus_fast.data import s3
from cirrus_fast.data.s3_get import Getter
from cirrus_fast.data.s3_signing import signer
from cirrus_fast.errors import CirrusFastError, StorageError
from cirrus_fast.runtime.params.module import module_version
from cirrus_fast.runtime.params.resp import Link
from cirrus_fast.store_url import StoreUrl

# Where there is no way, nothing answers: no longer is waited for an address that is near.
_CONNECT_S = 3.0


def probe(
    read: Sequence[str] = (), write: Sequence[str] = (), stores: Sequence[str] = ()
) -> dict[str, Any]:
    """Looks at S3 locations and at stores, each for some seconds at most.

    Parameters
    ----------
    read, write : s3:// locations; into the latter an object is written, and deleted
    stores : URLs of parameter stores, without passwords

    Returns
    -------
    what runs (version, python, impl, memory), and for each location and store None or, in one line,
    why not; "modules": store -> version of our module there
    """
    modules: dict[str, str | None] = {}

    def ask_store(url: str) -> None:
        modules[url] = _ask_store(url)

    return {
        "version": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "impl": _kernels.active_impl(),
        "memory": os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"),
        "region": os.environ.get("AWS_REGION"),
        "read": _each(_read, read),
        "write": _each(_write, write),
        "stores": _each(ask_store, stores),
        "modules": modules,
    }


def _each(look: Callable[[str], object], places: Sequence[str]) -> Mapping[str, Any]:
    """Place -> {"trouble": None or text, "seconds"}."""
    found = {}
    for place in places:
        began, trouble = time.monotonic(), None
        try:
            look(place)
        except (CirrusFastError, OSError) as error:
            trouble = " ".join(str(error).split())
        found[place] = {"trouble": trouble, "seconds": round(time.monotonic() - began, 3)}
    return found


def _read(location: str) -> None:
    """An object that is not there: "not found" is said only to who may read and list."""
    bucket, prefix = s3.split(location)
    key = "/".join(filter(None, (prefix, f"cirrus-fast-probe-{uuid.uuid4().hex}")))
    sign = signer(s3.client)
    request = sign.get(bucket, key)
    address = urlsplit(f"//{request.host}")
    port = address.port or (443 if request.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), _CONNECT_S).close()
    except TimeoutError as error:
        raise StorageError(f"no way to {request.host}: no answer in {_CONNECT_S:g} s") from error
    except OSError as error:
        raise StorageError(f"no way to {request.host}: {error.strerror or error}") from error
    getter = Getter(sign, bucket)
    try:
        getter.read(key)
    except StorageError as error:
        if error.errno != errno.ENOENT:
            raise
    finally:
        getter.close()


def _write(location: str) -> None:
    storage = s3.S3Storage(location)
    name = f"cirrus-fast-probe-{uuid.uuid4().hex}"
    storage.write(name, b"written and deleted by cirrus-fast doctor")
    storage.delete(name)


def _ask_store(url: str) -> str | None:
    store = StoreUrl.parse(url)
    link = Link((store,), b"", clustered=False)
    try:
        return link.again(module_version, give_up_s=2 * _CONNECT_S)
    finally:
        link.close()
