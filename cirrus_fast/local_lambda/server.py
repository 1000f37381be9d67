"""The Invoke API, as boto3 sees it: sandboxes begun and kept warm, limits, refusals, logs.

https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html
"""

from __future__ import annotations

import base64
import json
import random
import re
import tempfile
import threading
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from cirrus_fast.local_lambda.function import Function, arn, link_runtime
from cirrus_fast.local_lambda.http import QuietHandler, QuietServer
from cirrus_fast.local_lambda.sandbox import Outcome, Sandbox

_PATH = re.compile(r"/2015-03-31/functions/([^/]+)(?:/(invocations|configuration))?/?")
_MOST_BYTES = 6 << 20
_TAIL_BYTES = 4096
_LOGS_KEPT = 100_000
# How long the end waits for those that wait for sandboxes.
_GRACE_S = 5.0
# After a failed asynchronous event, as often as AWS tries again, but sooner.
_RETRY_AFTER_S = (0.5, 1.0)


class Serving(Protocol):
    """What the server needs of a sandbox."""

    @property
    def alive(self) -> bool: ...

    def invoke(self, request: str, payload: bytes) -> Outcome: ...

    def kill(self) -> None: ...

    def close(self) -> None: ...


@dataclass
class Faults:
    """What goes wrong to order, beside what the limits refuse.

    Attributes
    ----------
    share : of the requests that are refused; kinds : with which status, drawn
    kill_every_s : how often a busy sandbox, drawn, is killed; 0 for never
    """

    share: float = 0.0
    kinds: tuple[int, ...] = (429, 500, 502, 503)
    kill_every_s: float = 0.0
    draw: random.Random = field(default_factory=lambda: random.Random(1))

    def one(self) -> int | None:
        return self.draw.choice(self.kinds) if self.draw.random() < self.share else None


class Refusal(Exception):
    """One of Lambda's error answers."""

    def __init__(self, status: int, code: str, message: str, **more: str) -> None:
        super().__init__(message)
        self.status, self.code, self.more = status, code, more


_INJECTED = {
    429: ("TooManyRequestsException", "Rate Exceeded."),
    500: ("ServiceException", "An error occurred and the request cannot be processed."),
    502: ("EC2ThrottledException", "Lambda was throttled by Amazon EC2."),
    503: ("ServiceUnavailable", "Service is temporarily unavailable."),
}


class LocalLambda:
    """Serves some functions on a port of this machine until it is closed.

    Attributes
    ----------
    url : what boto3 takes as endpoint_url
    faults : refusals to order
    counts : of what happened: cold, warm, killed, and by status or error
    """

    def __init__(
        self,
        functions: Iterable[Function],
        *,
        port: int = 0,
        region: str = "us-east-1",
        concurrency: int = 1000,
        faults: Faults | None = None,
        start: Callable[[Function], Serving] | None = None,
        show: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """
        concurrency : sandboxes that may be busy at once, of all functions
        start : what makes a sandbox, where it is not to be a process
        show : called with each line of the functions' logs
        """
        self.functions = {function.name: function for function in functions}
        self.region, self.concurrency = region, concurrency
        self.faults = faults or Faults()
        self.counts: Counter[str] = Counter()
        self._show = show
        self._folder = tempfile.TemporaryDirectory(prefix="cirrus_fast_lambda_")
        self._start = start or self._starter()
        self._lock = threading.Lock()
        self._idle: dict[str, list[Serving]] = defaultdict(list)
        self._busy: dict[str, set[Serving]] = defaultdict(set)
        self._starting: Counter[str] = Counter()  # busy too, but not there yet
        self._logs: deque[tuple[int, str, str]] = deque(maxlen=_LOGS_KEPT)
        self._events = ThreadPoolExecutor(32, thread_name_prefix="local-lambda-event")
        self._closed = threading.Event()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.lambda_ = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        if self.faults.kill_every_s:
            threading.Thread(target=self._kill, name="local-lambda-kill", daemon=True).start()

    def _starter(self) -> Callable[[Function], Sandbox]:
        runtime = link_runtime(Path(self._folder.name, "runtime"))
        return lambda function: Sandbox(function, self.region, runtime)

    def __enter__(self) -> LocalLambda:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def busy(self) -> list[Serving]:
        """Sandboxes that serve an event now."""
        with self._lock:
            return [sandbox for some in self._busy.values() for sandbox in some]

    def _kill(self) -> None:
        """Sandboxes at random, as the faults say."""
        while not self._closed.wait(self.faults.kill_every_s):
            busy = self.busy
            if busy:
                self.faults.draw.choice(busy).kill()
                self.counts["killed"] += 1

    # Invocations

    def function(self, name: str) -> Function:
        """By name, name:version, or ARN."""
        plain = name.split(":function:")[-1].split(":")[0]
        if plain not in self.functions:
            raise Refusal(
                404,
                "ResourceNotFoundException",
                f"Function not found: {arn(self.region, plain)}",
                Type="User",
            )
        return self.functions[plain]

    def invoke(self, name: str, payload: bytes) -> tuple[Outcome, str]:
        """One synchronous invocation: how it ended, and its log."""
        function = self.function(name)
        injected = self.faults.one()
        if injected is not None:
            raise Refusal(injected, *_INJECTED[injected])
        sandbox = self._take(function) or self._begin(function)
        request, usable = str(uuid.uuid4()), False
        try:
            outcome = sandbox.invoke(request, payload)
            usable = outcome.usable
        finally:
            self._give_back(function, sandbox, usable=usable)
        self.counts["warm" if outcome.init_s is None else "cold"] += 1
        self.counts[outcome.error or "answered"] += 1
        return outcome, self._log(function, request, outcome)

    def _take(self, function: Function) -> Serving | None:
        """An idle sandbox that is busy now, or None where one must be begun, which has a place."""
        name = function.name
        with self._lock:
            if function.concurrency is not None:
                if len(self._busy[name]) + self._starting[name] >= function.concurrency:
                    raise self._too_many("ReservedFunctionConcurrentInvocationLimitExceeded")
            elif sum(map(len, self._busy.values())) + self._starting.total() >= self.concurrency:
                raise self._too_many("ConcurrentInvocationLimitExceeded")
            while self._idle[name]:
                sandbox = self._idle[name].pop()
                if sandbox.alive:
                    self._busy[name].add(sandbox)
                    return sandbox
                sandbox.close()
            self._starting[name] += 1
            return None

    def _begin(self, function: Function) -> Serving:
        try:
            sandbox = self._start(function)
        except BaseException:
            with self._lock:
                self._starting[function.name] -= 1
            raise
        with self._lock:
            self._starting[function.name] -= 1
            self._busy[function.name].add(sandbox)
        return sandbox

    def _too_many(self, reason: str) -> Refusal:
        return Refusal(429, *_INJECTED[429], Reason=reason, Type="User")

    def _give_back(self, function: Function, sandbox: Serving, *, usable: bool) -> None:
        with self._lock:
            self._busy[function.name].discard(sandbox)
            if usable and not self._closed.is_set():
                self._idle[function.name].append(sandbox)
                return
        sandbox.close()

    def invoke_later(self, name: str, payload: bytes) -> None:
        """An asynchronous invocation: taken now, done when there is room, again if it fails."""
        self.function(name)
        self._events.submit(self._event, name, payload)

    def _event(self, name: str, payload: bytes) -> None:
        for pause in (*_RETRY_AFTER_S, None):
            while not self._closed.is_set():
                try:
                    outcome, _ = self.invoke(name, payload)
                except Refusal:
                    self._closed.wait(0.1)
                    continue
                if outcome.error is None:
                    return
                break
            if pause is None or self._closed.wait(pause):
                self.counts["event dropped"] += 1
                return

    # Logs

    def _log(self, function: Function, request: str, outcome: Outcome) -> str:
        """All that an invocation logs, Lambda's own lines too."""
        milliseconds = 1000 * outcome.duration_s
        report = [
            f"REPORT RequestId: {request}",
            f"Duration: {milliseconds:.2f} ms",
            f"Billed Duration: {int(milliseconds + 0.999)} ms",
            f"Memory Size: {function.memory_mb} MB",
            f"Max Memory Used: {outcome.peak_mb} MB",
        ]
        if outcome.init_s is not None:
            report.append(f"Init Duration: {1000 * outcome.init_s:.2f} ms")
        if outcome.error == "timeout":
            report.append("Status: timeout")
        elif not outcome.usable:
            report.append(f"Status: error\tError Type: {json.loads(outcome.payload)['errorType']}")
        lines = [f"START RequestId: {request} Version: $LATEST", *outcome.log.splitlines()]
        if not outcome.usable:
            lines.append(json.loads(outcome.payload)["errorMessage"])
        lines += [f"END RequestId: {request}", "\t".join(report)]
        now = int(1000 * time.time())
        with self._lock:
            self._logs.extend((now, function.name, line) for line in lines)
        for line in lines:
            self._show(line)
        return "\n".join(lines) + "\n"

    def logged(
        self, function: str, containing: str = "", since_ms: int = 0
    ) -> list[dict[str, Any]]:
        """Lines of a function's log."""
        with self._lock:
            lines = list(self._logs)
        return [
            {"timestamp": at, "message": line, "logStreamName": "local", "eventId": str(i)}
            for i, (at, name, line) in enumerate(lines)
            if name == function and containing in line and at >= since_ms
        ]

    def describe(self, name: str) -> dict[str, Any]:
        function = self.function(name)
        return {
            "FunctionName": function.name,
            "FunctionArn": arn(self.region, function.name),
            "Handler": function.handler,
            "MemorySize": function.memory_mb,
            "Timeout": int(function.timeout_s),
            "Environment": {"Variables": dict(function.environment)},
            "State": "Active",
            "LastUpdateStatus": "Successful",
            "Version": "$LATEST",
        }

    def close(self) -> None:
        """Ends all sandboxes, whatever they do."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._events.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            idle = [sandbox for some in self._idle.values() for sandbox in some]
            self._idle.clear()
        for sandbox in idle:
            sandbox.close()
        until = time.monotonic() + _GRACE_S
        while time.monotonic() < until and (busy := self.busy):
            for sandbox in busy:  # closed by those that wait for them
                sandbox.kill()
            time.sleep(0.01)
        self._folder.cleanup()


class _Server(QuietServer):
    request_queue_size = 1024
    lambda_: LocalLambda


class _Handler(QuietHandler):
    server: _Server

    def do_GET(self) -> None:
        found = _PATH.fullmatch(urlsplit(self.path).path)
        try:
            if found is None or found[2] == "invocations":
                raise Refusal(404, "UnknownOperationException", f"GET {self.path}")
            described = self.server.lambda_.describe(unquote(found[1]))
            self._json(200, described if found[2] else {"Configuration": described})
        except Refusal as refusal:
            self._refuse(refusal)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = _PATH.fullmatch(urlsplit(self.path).path)
        try:
            if self.headers.get("X-Amz-Target") == "Logs_20140328.FilterLogEvents":
                self._filter_logs(json.loads(body))
            elif found is None or found[2] != "invocations":
                raise Refusal(404, "UnknownOperationException", f"POST {self.path}")
            else:
                self._invoke(unquote(found[1]), body)
        except Refusal as refusal:
            self._refuse(refusal)

    def _invoke(self, name: str, body: bytes) -> None:
        if len(body) > _MOST_BYTES:
            raise Refusal(413, "RequestTooLargeException", f"{len(body)} bytes, of {_MOST_BYTES}")
        try:
            json.loads(body or b"null")
        except ValueError:
            message = "Could not parse request body into json"
            raise Refusal(400, "InvalidRequestContentException", message) from None
        kind = self.headers.get("X-Amz-Invocation-Type", "RequestResponse")
        local = self.server.lambda_
        if kind == "DryRun":
            local.function(name)
            self._answer(204, b"", {})
        elif kind == "Event":
            local.invoke_later(name, body)
            self._answer(202, b"", {})
        else:
            outcome, log = local.invoke(name, body)
            headers = {"X-Amz-Executed-Version": "$LATEST"}
            if outcome.error is not None:
                headers["X-Amz-Function-Error"] = "Unhandled"
            if self.headers.get("X-Amz-Log-Type") == "Tail":
                tail = log.encode()[-_TAIL_BYTES:]
                headers["X-Amz-Log-Result"] = base64.b64encode(tail).decode()
            self._answer(200, outcome.payload, headers)

    def _filter_logs(self, asked: Mapping[str, Any]) -> None:
        """Of patterns, `{ $.name = "value" }` alone is known."""
        function = str(asked.get("logGroupName", "")).rpartition("/")[2]
        pattern = re.fullmatch(r'\{ \$\.(\w+) = "([^"]*)" \}', str(asked.get("filterPattern", "")))
        containing = f'"{pattern[1]}": "{pattern[2]}"' if pattern else ""
        events = self.server.lambda_.logged(function, containing, int(asked.get("startTime", 0)))
        self._json(200, {"events": events}, "application/x-amz-json-1.1")

    def _refuse(self, refusal: Refusal) -> None:
        self.server.lambda_.counts[str(refusal.status)] += 1
        body = json.dumps({"message": str(refusal), "Message": str(refusal), **refusal.more})
        self._answer(refusal.status, body.encode(), {"X-Amzn-ErrorType": refusal.code})

    def _json(self, status: int, body: Mapping[str, Any], kind: str = "application/json") -> None:
        self._answer(status, json.dumps(body).encode(), {"Content-Type": kind})

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.answer(status, body, {"x-amzn-RequestId": str(uuid.uuid4()), **headers})
