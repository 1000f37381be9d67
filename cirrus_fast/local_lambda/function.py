"""What a function is made of: its settings, and the folders that its sandboxes import from."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from cirrus_fast.errors import FunctionError

HANDLER = "cirrus_fast.runtime.handler.handler"
ACCOUNT = "000000000000"
# What AWS's Python runtime has, by distribution; the second ones a function can do without.
_RUNTIME = ("awslambdaric", "simplejson", "snapshot-restore-py")
_WITH_BOTO3 = ("boto3", "botocore", "s3transfer", "jmespath", "python-dateutil", "six", "urllib3")


@dataclass(frozen=True, slots=True)
class Function:
    """
    Attributes
    ----------
    layer : folder with `python/`, as Lambda unpacks a layer into /opt
    code : folder of the function's own modules, if it has any
    environment : variables beside Lambda's own
    memory_mb : a sandbox that uses more is killed
    timeout_s : an invocation that takes longer is ended, and its sandbox with it
    concurrency : sandboxes that may be busy at once; None: only the account's limit
    """

    name: str
    layer: Path
    code: Path | None = None
    handler: str = HANDLER
    environment: Mapping[str, str] = field(default_factory=dict)
    memory_mb: int = 2048
    timeout_s: float = 900.0
    concurrency: int | None = None


def arn(region: str, name: str) -> str:
    return f"arn:aws:lambda:{region}:{ACCOUNT}:function:{name}"


def unpack_layer(path: str | os.PathLike[str], folder: Path) -> Path:
    """The zip of a layer, as it will lie in /opt."""
    try:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise FunctionError(
            f"{os.fspath(path)}: is no layer that can be unpacked ({error})"
        ) from error
    if not (folder / "python" / "cirrus_fast").is_dir():
        raise FunctionError(f"{os.fspath(path)}: is no layer of cirrus-fast layer build")
    return folder


def installed_layer(folder: Path) -> Path:
    """What is installed here in the place of a layer: links to this package and NumPy."""
    import numpy

    import cirrus_fast

    python = folder / "python"
    python.mkdir(parents=True)
    for module in (numpy, cirrus_fast):
        home = Path(str(module.__file__)).parent
        (python / home.name).symlink_to(home)
        libraries = home.with_name(f"{home.name}.libs")
        if libraries.is_dir():
            (python / libraries.name).symlink_to(libraries)
    return folder


def link_runtime(folder: Path) -> Path:
    """What /var/runtime is at AWS: links to the runtime client, unmodified, and to boto3."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*_RUNTIME, *_WITH_BOTO3):
        try:
            found = distribution(name)
        except PackageNotFoundError:
            if name in _RUNTIME:
                raise FunctionError(
                    f"{name} is not installed: pip install 'cirrus-fast[local-lambda]'"
                ) from None
            continue
        for top in {Path(str(file)).parts[0] for file in found.files or ()}:
            place = Path(str(found.locate_file(top))).resolve()
            link = folder / top
            wanted = not top.startswith("..") and not top.endswith((".dist-info", "__pycache__"))
            if wanted and place.exists() and not link.is_symlink():
                link.symlink_to(place)
    return folder


def sandbox_environment(
    function: Function, region: str, runtime: Path, api: str, home: Path
) -> dict[str, str]:
    """A sandbox's whole environment: nothing of ours."""
    layer = function.layer / "python"
    task = function.code if function.code is not None else home
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {
        "AWS_DEFAULT_REGION": region,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{version}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_mb),
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
        "AWS_LAMBDA_RUNTIME_API": api,
        "AWS_REGION": region,
        "HOME": str(home),
        "LAMBDA_RUNTIME_DIR": str(runtime),
        "LAMBDA_TASK_ROOT": str(task),
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (task, layer, runtime))),
        "TZ": ":UTC",
        "_HANDLER": function.handler,
        **function.environment,
    }
