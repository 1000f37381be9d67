"""LambdaExecutor on Lambda of this machine: real sandboxes of AWS's runtime client, and what goes
wrong with them."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, as_completed, wait
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import boto3
import lambda_functions
import numpy as np
import pytest
from botocore.config import Config
from redis_server import Proxy

import cirrus_fast
from cirrus_fast import LambdaExecutor
from cirrus_fast.data.model import LinearModel
from cirrus_fast.data.storage import is_s3, open_storage
from cirrus_fast.errors import FunctionError, StorageError, WorkerDiedError
from cirrus_fast.local_lambda import memory_group
from cirrus_fast.local_lambda.function import Function
from cirrus_fast.local_lambda.memory_group import MemoryGroup
from cirrus_fast.local_lambda.sandbox import Outcome
from cirrus_fast.local_lambda.server import Faults, LocalLambda
from cirrus_fast.runtime import scoring
from cirrus_fast.runtime.worker import run_worker

Start = Callable[..., LocalLambda]


@pytest.fixture
def start(local_lambda: Start, tmp_path: Path) -> Start:
    """local_lambda with tests/lambda_functions.py in the function."""
    code = tmp_path / "task"
    code.mkdir()
    shutil.copy(lambda_functions.__file__, code)
    more = {"CIRRUS_FAST_PACKAGES": "lambda_functions"}
    return partial(local_lambda, code=code, environment=more)


@pytest.fixture
def executor() -> Iterator[Callable[..., LambdaExecutor]]:
    made: list[LambdaExecutor] = []

    def make(**more: Any) -> LambdaExecutor:
        made.append(LambdaExecutor(packages=["lambda_functions"], **more))
        return made[-1]

    yield make
    for one in made:
        one.shutdown(cancel_futures=True)


def client() -> Any:
    return boto3.client("lambda", config=Config(retries={"total_max_attempts": 1}))


# What can be called


def test_functions_are_called_by_name_and_sandboxes_stay_warm(
    start: Start, executor: Callable[..., LambdaExecutor]
) -> None:
    local = start()
    functions = executor()
    assert functions.submit(lambda_functions.add, 2, 3).result() == 5
    assert functions.submit(lambda_functions.add, "a", "b").result() == "ab"
    assert functions.submit(is_s3, "s3://b").result() is True
    assert local.counts == Counter(cold=1, warm=2, answered=3)
    assert list(functions.map(lambda_functions.add, [1, 2, 3], [10, 20, 30])) == [11, 22, 33]
    assert functions.usage.requests == 6
    assert functions.usage.cold_starts == local.counts["cold"]
    assert functions.usage.peak_mb > 20
    assert functions.usage.billed_s > 0


def test_what_the_layer_does_not_have_is_refused_here(
    start: Start, executor: Callable[..., LambdaExecutor]
) -> None:
    functions = executor()
    for fn, says in (
        (lambda: 1, "a lambda has no name"),
        (start, "only functions"),
        (json.dumps, r"json.dumps: is not in the layer, which has cirrus_fast, lambda_functions"),
        (make_local(), "only functions of a module"),
        (Counter.update, "only functions of a module"),
        (_from_demo(), "is not in the layer"),
        (_in_program(), "is in your program"),
    ):
        with pytest.raises(FunctionError, match=says):
            functions.submit(fn)
    add = lambda_functions.add
    with pytest.raises(FunctionError, match="by position"):
        functions.submit(add, a=1, b=2)
    with pytest.raises(FunctionError, match="what JSON has"):
        functions.submit(add, {1}, 2)
    with pytest.raises(FunctionError, match="at most 6000 are sent: put what is large into S3"):
        functions.submit(add, "x" * 6000, "")


def make_local() -> Callable[[], int]:
    def inside() -> int:
        return 1

    return inside


def _from_demo() -> Callable[..., Any]:
    from cirrus_fast.demo import run_demo

    return run_demo


def _in_program() -> Callable[[], int]:
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec("def mine():\n    return 1", scope)
    found: Callable[[], int] = scope["mine"]
    return found


def test_errors_come_back_as_what_they_were(
    start: Start, executor: Callable[..., LambdaExecutor]
) -> None:
    start()
    functions = executor()
    with pytest.raises(ValueError, match=r"^too bad$") as caught:
        functions.submit(lambda_functions.fail, "too bad").result()
    assert "in the function:" in str(caught.value.__cause__)
    assert "lambda_functions.py" in str(caught.value.__cause__)
    with pytest.raises(FunctionError, match="what it returns is nothing that JSON has"):
        functions.submit(lambda_functions.nothing_json_has).result()
    with pytest.raises(StorageError, match="unknown storage scheme"):
        functions.submit(cirrus_fast.data.storage.check_scheme, "ftp://x").result()


def test_a_package_that_the_function_does_not_know_is_refused_there(
    local_lambda: Start, executor: Callable[..., LambdaExecutor]
) -> None:
    local_lambda()
    with pytest.raises(FunctionError, match="calls what is in cirrus_fast; CIRRUS_FAST_PACKAGES"):
        executor().submit(lambda_functions.add, 1, 2).result()


# The handler


def invoke(event: object) -> dict[str, Any]:
    answer = client().invoke(FunctionName="worker", Payload=json.dumps(event).encode())
    assert "FunctionError" not in answer
    found: dict[str, Any] = json.loads(answer["Payload"].read())
    return found


def test_events_that_are_not_ours_are_refused_and_no_error_of_the_function(start: Start) -> None:
    start()
    version = cirrus_fast.__version__
    for event in ({}, [], None, "x", {"Records": [1]}, {"cirrus_fast": version}):
        kind, message, _ = invoke(event)["error"]
        assert kind == "FunctionError"
        assert f"this function is cirrus-fast {version}'s, and the event is not of it" in message
    _, message, _ = invoke({"cirrus_fast": version, "kind": "bake"})["error"]
    assert "kind 'bake': there are train, evaluate, predict, make and call" in message


def test_another_version_is_refused_with_both_named(
    start: Start, executor: Callable[..., LambdaExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    monkeypatch.setattr("cirrus_fast.backend.aws_lambda.__version__", "9.8.7")
    says = f"cirrus-fast 9.8.7 asks a function whose layer has {cirrus_fast.__version__}"
    with pytest.raises(FunctionError, match=says):
        executor().submit(lambda_functions.add, 1, 2).result()


def test_a_sandbox_has_the_layer_and_nothing_else(
    start: Start, executor: Callable[..., LambdaExecutor], layer_folder: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("A_SECRET_OF_MINE", "x")
    start()
    functions = executor()
    modules = functions.submit(lambda_functions.loaded).result()
    unwanted = {"boto3", "botocore", "redis", "hiredis", "click", "rich", "scipy", "pytest", "ssl"}
    assert not unwanted & set(modules)
    assert "cirrus_fast.runtime.remote" in modules
    environment = functions.submit(lambda_functions.environment).result()
    assert "A_SECRET_OF_MINE" not in environment
    assert environment["AWS_LAMBDA_FUNCTION_NAME"] == "worker"
    assert str(layer_folder / "python") in environment["PYTHONPATH"]


def test_log_lines_are_json_with_who_it_is_about(
    start: Start, executor: Callable[..., LambdaExecutor]
) -> None:
    local = start()
    spec = json.dumps({"task": "t1", "worker": 3, "generation": 2})
    with pytest.raises(cirrus_fast.CirrusFastError, match="wrong fields"):
        executor().submit(run_worker, spec).result()
    lines = [json.loads(line["message"]) for line in local.logged("worker", '"task": "t1"')]
    assert [line["level"] for line in lines] == ["info", "error"]
    assert all((line["worker"], line["generation"]) == (3, 2) for line in lines)


# How sandboxes end


@pytest.mark.parametrize(
    ("settings", "function", "argument", "kind", "says"),
    [
        ({"timeout_s": 1}, "nap", 60, "timed out", "Task timed out after 1.00 seconds"),
        ({"memory_mb": 128}, "fill", 300, "out of memory", r"128 MB are too few.*: taking 300 MB"),
        ({}, "leave", 3, "sandbox died", "exit status 3.*; its last words: leaving now"),
    ],
)
def test_what_ends_a_sandbox_is_told_apart_in_one_line(
    start: Start,
    executor: Callable[..., LambdaExecutor],
    settings: dict[str, Any],
    function: str,
    argument: int,
    kind: str,
    says: str,
) -> None:
    local = start(**settings)
    functions = executor()
    with pytest.raises(WorkerDiedError, match=says) as caught:
        functions.submit(getattr(lambda_functions, function), argument).result()
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)
    assert functions.ends == Counter({kind: 1})
    # The next event finds a sandbox all the same.
    assert functions.submit(lambda_functions.add, 1, 1).result() == 2
    assert local.counts["cold"] == 2


def test_memory_of_what_a_function_starts_counts_where_the_kernel_keeps_the_limit(
    start: Start, executor: Callable[..., LambdaExecutor]
) -> None:
    group = MemoryGroup.make(1 << 20)
    if group is None:
        pytest.skip("may not make control groups")
    group.remove()
    assert not group._path.exists()
    start(memory_mb=128)
    functions = executor()
    assert functions.submit(lambda_functions.fill_in_a_child, 8).result() == 0
    with pytest.raises(WorkerDiedError, match="out of memory: 128 MB are too few"):
        functions.submit(lambda_functions.fill_in_a_child, 300).result()


def test_memory_is_looked_at_where_control_groups_cannot_be_made(
    start: Start,
    executor: Callable[..., LambdaExecutor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_group, "_ROOT", tmp_path)
    assert MemoryGroup.make(1 << 20) is None
    start(memory_mb=128)
    with pytest.raises(WorkerDiedError, match="out of memory: 128 MB are too few"):
        executor().submit(lambda_functions.fill, 300).result()


def test_a_killed_sandbox_has_died(start: Start, executor: Callable[..., LambdaExecutor]) -> None:
    local = start()
    call = executor().submit(lambda_functions.nap, 30)
    until = time.monotonic() + 20
    while not local.busy and time.monotonic() < until:
        time.sleep(0.01)
    (sandbox,) = local.busy
    sandbox.kill()
    with pytest.raises(WorkerDiedError, match="signal: killed") as caught:
        call.result(20)
    assert caught.value.kind == "sandbox died"


def test_sandboxes_are_killed_as_often_as_ordered(
    start: Start, executor: Callable[..., LambdaExecutor]
) -> None:
    local = start(server={"faults": Faults(kill_every_s=0.1)})
    functions = executor()
    for _ in range(2):
        with pytest.raises(WorkerDiedError, match="signal: killed"):
            functions.submit(lambda_functions.nap, 600).result(60)
    assert local.counts["killed"] >= 2


def test_a_handler_that_is_not_there_is_an_error_of_the_code(
    local_lambda: Start, executor: Callable[..., LambdaExecutor]
) -> None:
    local_lambda(handler="cirrus_fast.runtime.handler.no_such")
    with pytest.raises(FunctionError, match=r"Runtime.HandlerNotFound: .*'no_such' missing"):
        executor().submit(is_s3, "x").result()


def test_an_asynchronous_event_is_done_later(start: Start, tmp_path: Path) -> None:
    local = start()
    event = {"cirrus_fast": cirrus_fast.__version__, "kind": "call"}
    event |= {"function": "lambda_functions:shout", "arguments": ["done at last"]}
    answer = client().invoke(
        FunctionName="worker", InvocationType="Event", Payload=json.dumps(event).encode()
    )
    assert answer["StatusCode"] == 202
    until = time.monotonic() + 20
    while not local.logged("worker", "done at last") and time.monotonic() < until:
        time.sleep(0.02)
    assert len(local.logged("worker", "done at last")) == 1


def test_the_last_four_kilobytes_of_the_log_come_back(start: Start) -> None:
    start()
    event = {"cirrus_fast": cirrus_fast.__version__, "kind": "call"}
    event |= {"function": "lambda_functions:shout", "arguments": ["x" * 99, 100]}
    answer = client().invoke(
        FunctionName="worker", LogType="Tail", Payload=json.dumps(event).encode()
    )
    import base64

    log = base64.b64decode(answer["LogResult"]).decode()
    assert len(log) == 4096
    assert "\nEND RequestId: " in log
    assert "Memory Size: 2048 MB\tMax Memory Used: " in log.splitlines()[-1]


# Refusals


def test_a_function_that_is_not_there_and_one_not_reached_are_told_apart(
    start: Start, executor: Callable[..., LambdaExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    with pytest.raises(FunctionError, match=r"nobody: there is none at http://127.*deploy it"):
        executor(function="nobody").submit(is_s3, "x").result()
    monkeypatch.setattr("cirrus_fast.backend.aws_lambda._ATTEMPTS", 3)
    nowhere = executor(endpoint="http://127.0.0.1:9")
    with pytest.raises(FunctionError, match=r"cannot be reached .* after 3 attempts: is the reg"):
        nowhere.submit(is_s3, "x").result()
    with pytest.raises(FunctionError, match=r"Could not connect .*is the region right"):
        nowhere.configuration()


def test_an_answer_whose_headers_were_cut_short_is_not_taken_for_one(
    start: Start, executor: Callable[..., LambdaExecutor]
) -> None:
    """Such a one seems to be whole, and to have no body."""
    local = start()
    way = Proxy(int(local.url.rpartition(":")[2]))
    way.rule = lambda direction, connection, _passed, data: (
        data[: data.index(b"\r\n") + 2] if direction == "down" and connection % 2 == 0 else data
    )
    functions = executor(endpoint=f"http://127.0.0.1:{way.port}")
    try:
        found = functions.configuration()
        assert found is not None
        assert found["MemorySize"] == 2048
        assert way.connections == 2
        called = [functions.submit(is_s3, "s3://b") for _ in range(2)]
        wait(called)
    finally:
        way.stop()
    lost = [one.exception() for one in called]
    assert any(isinstance(one, WorkerDiedError) and "answer is lost" in str(one) for one in lost)
    assert all(one is None or isinstance(one, WorkerDiedError) for one in lost)


def test_a_region_or_credentials_that_are_missing_are_named(
    start: Start, executor: Callable[..., LambdaExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(FunctionError, match="function worker: Unable to locate credentials"):
        executor().submit(is_s3, "x").result()
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(FunctionError, match=r"no AWS region is set.*configure\(region="):
        executor()


class Still:
    """In the place of a sandbox: takes its time, and no memory or processor."""

    alive = True

    def __init__(self, seconds: float, until: Callable[[], object]) -> None:
        self._seconds, self._until = seconds, until

    def invoke(self, request: str, payload: bytes) -> Outcome:
        while not self._until():
            time.sleep(0.05)
        time.sleep(self._seconds)
        answer = {"cirrus_fast": "x", "answer": json.loads(payload)["arguments"][0]}
        return Outcome(json.dumps(answer).encode(), None, "", self._seconds, 30, None, True)

    def kill(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def still(aws: None) -> Iterator[Callable[..., LocalLambda]]:
    made: list[LocalLambda] = []

    def begin(
        seconds: float, until: Callable[[], object] = lambda: True, **more: Any
    ) -> LocalLambda:
        function = Function("worker", Path("/nowhere"))
        made.append(LocalLambda([function], start=lambda _: Still(seconds, until), **more))
        return made[-1]

    yield begin
    for one in made:
        one.close()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("CIRRUS_FAST_FUNCTION", "worker")


def test_a_thousand_launches_against_a_limit_of_two_hundred_lose_none(
    still: Callable[..., LocalLambda], executor: Callable[..., LambdaExecutor]
) -> None:
    refused = Event()
    # However slowly calls come, the limit is met.
    local = still(0.2, until=refused.is_set, concurrency=200)
    count = local._too_many
    local._too_many = lambda reason: refused.set() or count(reason)  # type: ignore[method-assign]
    functions = executor(endpoint=local.url, launch_rate=10_000, launch_burst=1000)
    began = time.process_time()
    calls = [functions.submit(is_s3, str(i)) for i in range(1000)]
    assert [call.result(120) for call in calls] == [str(i) for i in range(1000)]
    assert local.counts["answered"] == 1000
    # Refusals were waited out, not asked again and again.
    assert 0 < local.counts["429"] == functions.usage.throttled < 1500
    assert time.process_time() - began < 30


def test_launches_come_as_often_as_configured(
    still: Callable[..., LocalLambda], executor: Callable[..., LambdaExecutor]
) -> None:
    functions = executor(endpoint=still(0).url, launch_rate=50, launch_burst=5)
    began = time.monotonic()
    wait([functions.submit(is_s3, str(i)) for i in range(30)])
    assert time.monotonic() - began >= (30 - 5) / 50


def test_refusals_of_all_kinds_are_waited_out(
    still: Callable[..., LocalLambda],
    executor: Callable[..., LambdaExecutor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cirrus_fast.backend.aws_lambda._LONGEST_PAUSE_S", 0.2)
    local = still(0, faults=Faults(0.3))
    functions = executor(endpoint=local.url)
    calls = [functions.submit(is_s3, str(i)) for i in range(100)]
    assert [call.result(60) for call in calls] == [str(i) for i in range(100)]
    assert functions.usage.throttled > 0
    assert functions.usage.unavailable > 0


def test_what_is_refused_for_too_long_is_an_error(
    still: Callable[..., LocalLambda],
    executor: Callable[..., LambdaExecutor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cirrus_fast.backend.aws_lambda._LONGEST_PAUSE_S", 0.1)
    local = still(0, faults=Faults(1.0, (429,)))
    functions = executor(endpoint=local.url, patience_s=0.5)
    with pytest.raises(FunctionError, match=r"throttled: .*, for 0.5 s; raise the account's limit"):
        functions.submit(is_s3, "x").result(60)
    local.faults = Faults(1.0, (503,))
    monkeypatch.setattr("cirrus_fast.backend.aws_lambda._ATTEMPTS", 2)
    with pytest.raises(FunctionError, match=r"ServiceUnavailable.*given up after 2 attempts"):
        functions.submit(is_s3, "x").result(60)
    # A worker has a generation of its own: whether it began, nobody knows.
    with pytest.raises(WorkerDiedError) as caught:
        functions.submit(run_worker, "{}").result(60)
    assert caught.value.kind == "unavailable"


def test_calls_that_wait_can_be_cancelled_and_those_under_way_cannot(
    still: Callable[..., LocalLambda], executor: Callable[..., LambdaExecutor]
) -> None:
    functions = executor(endpoint=still(0.5).url, max_concurrency=1)
    first, second, third = (functions.submit(is_s3, str(i)) for i in range(3))
    while not first.running():
        time.sleep(0.01)
    assert second.cancel()
    assert not first.cancel()
    assert second.cancelled()
    assert set(as_completed([first, second, third])) == {first, second, third}
    assert (first.result(), third.result()) == ("0", "2")
    fourth, fifth = (functions.submit(is_s3, str(i)) for i in range(2))
    while not fourth.running():
        time.sleep(0.01)
    functions.shutdown(cancel_futures=True)
    assert fourth.result() == "0"
    with pytest.raises(CancelledError):
        fifth.result()
    with pytest.raises(RuntimeError, match="shut down"):
        functions.submit(is_s3, "x")


def test_a_lost_answer_is_told_from_a_dead_worker(
    still: Callable[..., LocalLambda],
    executor: Callable[..., LambdaExecutor],
    proxy: Callable[[int], Any],
) -> None:
    local = still(0.2)
    way = proxy(int(local.url.rpartition(":")[2]))
    way.rule = lambda direction, _connection, _passed, data: data if direction == "up" else None
    functions = executor(endpoint=f"http://127.0.0.1:{way.port}")
    with pytest.raises(WorkerDiedError, match=r"its answer is lost .*it may have done") as caught:
        functions.submit(is_s3, "x").result(20)
    assert caught.value.answer_lost


def test_settings_that_mean_nothing_are_refused(executor: Callable[..., LambdaExecutor]) -> None:
    for bad in ({"launch_rate": 0}, {"launch_burst": 0}, {"max_concurrency": 0}):
        with pytest.raises(FunctionError, match="must be above 0"):
            executor(**bad)


def test_connections_are_kept_alive_sooner_than_gateways_forget_them(
    aws: None, executor: Callable[..., LambdaExecutor]
) -> None:
    import socket

    options = executor()._client._endpoint.http_session._manager.connection_pool_kw
    assert (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60) in options["socket_options"]


# Kinds of events beside training


def test_models_are_measured_and_rows_scored_in_functions(
    start: Start, executor: Callable[..., LambdaExecutor], tmp_path: Path, s3: Any
) -> None:
    start()
    functions = executor()
    cirrus_fast.make_clicks(tmp_path / "c.svm", 10_000, seed=1, hash_bits=10)
    data = cirrus_fast.load_libsvm(tmp_path / "c.svm", "s3://bucket/c")
    model = cirrus_fast.LogisticRegression(dataset=data.uri, epochs=1, epsilon=0).run().model
    model.save("s3://bucket/models/m.npz")
    assert np.array_equal(LinearModel.load("s3://bucket/models/m.npz").weights, model.weights)
    spec = {"model": "s3://bucket/models/m.npz", "dataset": data.uri}
    found = json.loads(functions.submit(scoring.evaluate, json.dumps(spec)).result())
    assert found == json.loads(json.dumps(model.evaluate(data).to_json()))
    n_blocks = len(data.blocks)
    assert n_blocks >= 2
    lines = b""
    for blocks in ([0, 1], [1, n_blocks]):
        more = {"output": f"s3://bucket/scores/{blocks[0]}", "blocks": blocks}
        done = json.loads(functions.submit(scoring.predict, json.dumps(spec | more)).result())
        assert done["next_block"] == blocks[1]
        assert not done["handed_over"]
        lines += open_storage("s3://bucket/scores").read(str(blocks[0]))
    scores = np.array(lines.split(), np.float32)
    assert np.array_equal(scores, model.predict_proba(data)[:, 1])


def test_scoring_hands_over_when_its_time_is_up(tmp_path: Path) -> None:
    cirrus_fast.make_clicks(tmp_path / "c.svm", 10_000, seed=1, hash_bits=10)
    data = cirrus_fast.load_libsvm(tmp_path / "c.svm", str(tmp_path / "c"))
    cirrus_fast.LogisticRegression(dataset=data.uri, epochs=1).run().model.save(tmp_path / "m.npz")
    spec = {"model": str(tmp_path / "m.npz"), "dataset": data.uri, "what": "label"}
    first = json.loads(scoring.predict(json.dumps(spec | {"output": f"{tmp_path}/1"}), -1))
    assert first == {"rows": data.blocks[0].n_rows, "next_block": 1, "handed_over": True}
    assert len((tmp_path / "1").read_text().split()) == first["rows"]
    with pytest.raises(FunctionError, match="the function's time is up before"):
        scoring.evaluate(json.dumps(spec), -1)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"model": 3}, "model, output: missing; each is a URI"),
        ({"output": "o", "blocks": [0, 99]}, r"blocks=\[0, 99\]: .*/c has 1"),
        ({"output": "o", "what": "colour"}, "what='colour': choose probability, label, margin"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    tmp_path: Path, more: dict[str, object], says: str
) -> None:
    cirrus_fast.make_clicks(tmp_path / "c.svm", 1000, seed=1, hash_bits=10)
    data = cirrus_fast.load_libsvm(tmp_path / "c.svm", str(tmp_path / "c"))
    cirrus_fast.LogisticRegression(dataset=data.uri, epochs=1).run().model.save(tmp_path / "m.npz")
    spec = {"model": str(tmp_path / "m.npz"), "dataset": data.uri} | more
    with pytest.raises(cirrus_fast.CirrusFastError, match=says):
        scoring.predict(json.dumps(spec))


# Passwords


def test_a_password_is_looked_up_in_the_function_by_its_name(
    start: Start, executor: Callable[..., LambdaExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    local = start()
    url = "redis://127.0.0.1/?password_from=env:STORE_PASSWORD"
    call = executor().submit(lambda_functions.password_of, url)
    with pytest.raises(cirrus_fast.CirrusFastError, match="environment has no STORE_PASSWORD"):
        call.result()
    start(environment={"CIRRUS_FAST_PACKAGES": "lambda_functions", "STORE_PASSWORD": "hush"})
    assert executor().submit(lambda_functions.password_of, url).result() == len("hush")
    assert not [line for line in local.logged("worker") if "hush" in line["message"]]
