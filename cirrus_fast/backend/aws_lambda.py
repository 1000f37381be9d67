"""AWS Lambda behind the executor interface: importable functions, JSON in and out.

`submit(fn, *arguments)` names the function and sends its arguments; no code travels. A call is one
synchronous invocation, which keeps a connection open for as long as the function runs: its answer
says how it ended. Lambda's refusals are waited out here, in one place for all calls, so that a
thousand of them against a limit of two hundred neither get lost nor ask again and again.
"""

from __future__ import annotations

import base64
import inspect
import json
import math
import random
import re
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from cirrus_fast._version import __version__
from cirrus_fast.backend.function_place import FunctionPlace, function_place
from cirrus_fast.errors import CirrusFastError, FunctionError, WorkerDiedError, told
from cirrus_fast.runtime.kinds import CALL, KINDS, MOST_BYTES, PACKAGES

# A function may run for 900 s, and only its answer ends the wait.
_READ_TIMEOUT_S, _CONNECT_TIMEOUT_S = 920, 10
# AWS's NAT gateways forget a connection that was silent for 350 s.
_KEEP_ALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 30), ("TCP_KEEPCNT", 4))
# After a refusal nothing is sent for so long, at first and at most.
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0
# How often a function that could not be reached is tried before that counts as an error.
_ATTEMPTS = 8
# How long `shutdown` waits for calls whose end nobody wants to know.
_GRACE_S = 3.0

# What the layer has of this package, and no worker needs, it is without (backend/layer.py).
_NOT_IN_LAYER = re.compile(
    r"cirrus_fast\.(cli|backend\.(deployment|layer)|local_lambda|sklearn|demo|plots|_reference"
    r"|__main__)(\.|$)"
)
_BY_FUNCTION = {target: kind for kind, target in KINDS.items()}
_REPORT = re.compile(r"^REPORT RequestId: .*$", re.M)
_PLATFORM = re.compile(r"^((START|END|REPORT|INIT_START|INIT_REPORT) |RequestId: )")


@dataclass(slots=True)
class Usage:
    """What an executor has had of Lambda, by its reports.

    Attributes
    ----------
    requests : answered, in whatever way; throttled : refused for now, with 429
    unavailable : refused with 5xx, or not reached
    billed_s : seconds billed; gb_s : times the function's memory
    cold_starts : sandboxes begun; init_s : seconds that took; peak_mb : most memory used
    lost : calls whose answer is lost; lost_s : how long they had been under way
    """

    requests: int = 0
    throttled: int = 0
    unavailable: int = 0
    billed_s: float = 0.0
    gb_s: float = 0.0
    cold_starts: int = 0
    init_s: float = 0.0
    peak_mb: int = 0
    lost: int = 0
    lost_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """Lambda's REPORT line of one invocation."""

    billed_s: float
    memory_mb: int
    peak_mb: int
    init_s: float | None

    @classmethod
    def find(cls, log: str) -> Report | None:
        lines = _REPORT.findall(log)
        if not lines:
            return None
        fields = dict(part.split(": ", 1) for part in lines[-1].split("\t") if ": " in part)

        def number(name: str) -> float:
            return float(fields.get(name, "0").split()[0])

        init = number("Init Duration") / 1000 if "Init Duration" in fields else None
        return cls(
            number("Billed Duration") / 1000,
            int(number("Memory Size")),
            int(number("Max Memory Used")),
            init,
        )


class _Call(Future[Any]):
    """One call, from being asked for to its answer.

    Attributes
    ----------
    kind : of the event
    sent_at : when it was sent, by the monotonic clock; None while it waits
    counted : it is in the usage
    billed_s : once it is; of what was lost, how long it had been under way
    """

    def __init__(self, event: bytes, kind: str) -> None:
        super().__init__()
        self.event, self.kind = event, kind
        self.attempts = 0
        self.sent_at: float | None = None
        self.counted = False
        self.billed_s = 0.0
        self._settling = threading.Lock()
        self._sending = threading.RLock()

    @property
    def once(self) -> bool:
        """Whether it must not be sent again once it may have been taken: a worker's generation
        is one worker's."""
        return self.kind == "train"

    def cancel(self) -> bool:
        """Lambda ends no invocation: only what has not been sent can be cancelled."""
        with self._sending:
            if self.sent_at is not None or not super().cancel():
                return False
        self.settle()
        return True

    def begin(self) -> bool:
        """It is being sent, unless it was cancelled."""
        with self._sending:
            if self.cancelled():
                return False
            self.sent_at = time.monotonic()
        self.attempts += 1
        return True

    def running(self) -> bool:
        return self.sent_at is not None and not self.done()

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """Unless it is settled already: nobody waits any more for what comes late."""
        if not self._settling.acquire(blocking=False) or not self.set_running_or_notify_cancel():
            return
        if error is not None:
            self.set_exception(error)
        else:
            self.set_result(result)


class _Bucket:
    """So many a second, and so many at once after a pause."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self._most, self._burst = rate, rate, burst
        self._tokens, self._at = float(burst), time.monotonic()

    def wait_s(self) -> float:
        """Until there is one."""
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        return max(0.0, (1 - self._tokens) / self.rate)

    def take(self) -> None:
        self._tokens -= 1

    def slow_down(self) -> None:
        self.rate = max(self._most / 100, self.rate / 2)

    def speed_up(self) -> None:
        self.rate = min(self._most, self.rate * 1.05)


class LambdaExecutor(Executor):
    """Runs importable functions of the layer on AWS Lambda."""

    def __init__(
        self,
        function: str | None = None,
        *,
        region: str | None = None,
        endpoint: str | None = None,
        packages: Iterable[str] = (),
        max_concurrency: int = 1000,
        launch_rate: float = 100.0,
        launch_burst: int = 100,
        patience_s: float = 300.0,
    ) -> None:
        """
        Parameters
        ----------
        function, region, endpoint : as for `configure`, which says what they are by default
        packages : those of yours that the function has, beside cirrus_fast; its environment must
            name them too (CIRRUS_FAST_PACKAGES)
        max_concurrency : invocations under way at once, at most
        launch_rate, launch_burst : invocations begun a second, and at once after a pause
        patience_s : how long Lambda may refuse everything before that is an error
        """
        if launch_rate <= 0 or launch_burst < 1 or max_concurrency < 1:
            raise FunctionError(
                f"launch_rate={launch_rate}, launch_burst={launch_burst}, "
                f"max_concurrency={max_concurrency}: must be above 0"
            )
        place = function_place()
        given = {"function": function, "region": region, "endpoint": endpoint}
        self._place: FunctionPlace = replace(place, **{k: v for k, v in given.items() if v})
        self.function = self._place.name
        self.patience_s = patience_s
        self._packages = {*PACKAGES, *packages}
        self._client = self._place.client(
            "lambda",
            read_timeout=_READ_TIMEOUT_S,
            connect_timeout=_CONNECT_TIMEOUT_S,
            retries={"total_max_attempts": 1},
            tcp_keepalive=True,
            max_pool_connections=max_concurrency,
        )
        _keep_alive(self._client)
        self._bucket = _Bucket(launch_rate, launch_burst)
        self._most = float(max_concurrency)
        # How many may be under way: lowered to what Lambda takes, raised as calls end.
        self._window = float(max_concurrency)
        self._resume_at, self._paused_at, self._refusals = 0.0, 0.0, 0
        self._refused_since: float | None = None
        self._trouble = ""
        self._queue: deque[_Call] = deque()
        self._under_way: set[_Call] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._dispatcher: threading.Thread | None = None
        self.usage = Usage()
        self.ends: Counter[str] = Counter()

    # Calls

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Calls a module-level function with arguments that JSON can carry."""
        call = self._call(fn, args, kwargs)
        with self._changed:
            if self._closed:
                raise RuntimeError("the executor is shut down")
            self._queue.append(call)
            if self._dispatcher is None:
                self._dispatcher = threading.Thread(
                    target=self._dispatch, name="cirrus-lambda", daemon=True
                )
                self._dispatcher.start()
            self._changed.notify_all()
        return call

    def _call(self, fn: Callable[..., Any], args: Sequence[Any], more: Mapping[str, Any]) -> _Call:
        name = self._name(fn)
        if more:
            raise FunctionError(f"{name}: arguments by name do not travel; give them by position")
        kind = _BY_FUNCTION.get(name)
        event: dict[str, Any] = {"cirrus_fast": __version__}
        try:
            if kind is not None and len(args) == 1:
                event |= {"kind": kind, "spec": json.loads(args[0])}
            else:
                event |= {"kind": CALL, "function": name, "arguments": list(args)}
            text = json.dumps(event, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise FunctionError(f"{name}: arguments must be what JSON has ({error})") from None
        if len(text) > MOST_BYTES:
            raise FunctionError(
                f"{name}: the event has {len(text)} bytes, and at most {MOST_BYTES} are sent: put "
                "what is large into S3 and send its name"
            )
        return _Call(text, str(event["kind"]))

    def _name(self, fn: Callable[..., Any]) -> str:
        """ "module:function", under which the function in the layer is the same."""
        module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "")
        shown = f"{module}.{name}" if name else repr(fn)
        if not inspect.isfunction(fn) and not inspect.isbuiltin(fn):
            raise FunctionError(f"{shown}: only functions can be called by name")
        if name.endswith("<lambda>"):
            raise FunctionError(f"{shown}: a lambda has no name to be found by; give it a def")
        if "<locals>" in name or "." in name:
            raise FunctionError(f"{shown}: only functions of a module can be found by name")
        if module == "__main__" or module is None:
            raise FunctionError(
                f"{shown}: is in your program, which the layer has not: put it into a package that "
                "the function has"
            )
        package = module.partition(".")[0]
        if package not in self._packages or _NOT_IN_LAYER.match(module):
            known = ", ".join(sorted(self._packages))
            raise FunctionError(
                f"{shown}: is not in the layer, which has {known}; packages=[{package!r}] says "
                "that yours has it"
            )
        return f"{module}:{name}"

    # Sending

    def _dispatch(self) -> None:
        """Sends what may be sent, and else sleeps until something changes."""
        with self._changed:
            while True:
                if self._closed and not self._queue:
                    return
                pause = self._pause_s()
                if pause > 0:
                    self._changed.wait(None if math.isinf(pause) else pause)
                    continue
                call = self._queue.popleft()
                if not call.begin():
                    continue
                self._bucket.take()
                self._under_way.add(call)
                threading.Thread(target=self._send, args=(call,), daemon=True).start()

    def _pause_s(self) -> float:
        """Until the next call may be sent."""
        if not self._queue or len(self._under_way) >= max(1, int(self._window)):
            return math.inf
        return max(self._resume_at - time.monotonic(), self._bucket.wait_s())

    def _send(self, call: _Call) -> None:
        try:
            self._invoke(call)
        except BaseException as error:
            call.settle(error=error)
        finally:
            with self._changed:
                self._under_way.discard(call)
                if self._closed and not self._queue and not self._under_way:
                    self._client.close()
                self._changed.notify_all()

    def _invoke(self, call: _Call) -> None:
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            ConnectionClosedError,
            ConnectionError,
            HTTPClientError,
            ReadTimeoutError,
        )

        try:
            response = self._client.invoke(
                FunctionName=self.function,
                InvocationType="RequestResponse",
                LogType="Tail",
                Payload=call.event,
            )
            payload = response["Payload"].read()
        except ClientError as error:
            self._refused(call, error.response)
        except (ConnectionClosedError, ReadTimeoutError) as error:
            self._lost(call, str(error))
        except (ConnectionError, HTTPClientError) as error:  # nothing was sent, as far as we know
            sent = not isinstance(error, ConnectionError)
            self._unavailable(call, f"cannot be reached ({error})", sent=sent)
        except (BotoCoreError, ValueError) as error:  # no credentials, no such profile
            raise FunctionError(f"function {self.function}: {error}") from error
        except OSError as error:
            self._lost(call, str(error))
        else:
            if payload:
                self._answered(call, response, payload)
            else:  # no function answers nothing: headers that were cut short seem to be all
                self._lost(call, "it was cut short")

    # Refusals

    def _refused(self, call: _Call, response: Mapping[str, Any]) -> None:
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        said = response.get("Error", {})
        code, message = said.get("Code", str(status)), said.get("Message") or "no reason given"
        name = f"function {self.function}"
        if status == 429 or code == "TooManyRequestsException":
            self._throttled(call, response.get("Reason") or message)
        elif status >= 500:
            self._unavailable(call, f"{code}: {message}", sent=True)
        elif code == "ResourceNotFoundException":
            where = self._client.meta.endpoint_url
            raise FunctionError(
                f"{name}: there is none at {where} ({message}): deploy it, or name another with "
                "CIRRUS_FAST_FUNCTION or configure(function=...)"
            )
        elif status in (401, 403):
            raise FunctionError(
                f"{name}: these credentials may not invoke it, which takes lambda:InvokeFunction "
                f"({code}: {message})"
            )
        else:
            raise FunctionError(f"{name}: {code}: {message}")

    def _throttled(self, call: _Call, why: str) -> None:
        with self._changed:
            self.usage.throttled += 1
            if "RateLimit" in why:  # of requests, not of sandboxes
                self._bucket.slow_down()
            others = len(self._under_way) - 1
            self._window = max(1.0, min(self._window, others))
            self._put_back(
                call, f"throttled: {why}", "raise the account's limit, or lower n_workers"
            )

    def _unavailable(self, call: _Call, why: str, *, sent: bool) -> None:
        with self._changed:
            self.usage.unavailable += 1
            why = f"function {self.function}: {why}"
            if call.once and sent:  # it may have begun all the same: another generation must go
                self._pause(call.sent_at or 0.0)
                call.settle(error=WorkerDiedError(why, "unavailable"))
            elif call.attempts >= _ATTEMPTS:
                self._pause(call.sent_at or 0.0)
                tried = f"{why}; given up after {call.attempts} attempts"
                hint = "" if sent else ": is the region right?"
                call.settle(error=FunctionError(tried + hint))
            else:
                self._put_back(call, why, "try again later")

    def _put_back(self, call: _Call, why: str, hint: str) -> None:
        """Whoever was first is first again."""
        now, name = time.monotonic(), f"function {self.function}: "
        self._trouble = why
        self._refused_since = self._refused_since or now
        if now - self._refused_since > self.patience_s and len(self._under_way) == 1:
            self._refused_since = None
            said = f"{why.removeprefix(name)}, for {self.patience_s:g} s; {hint}"
            call.settle(error=FunctionError(name + said))
            return
        sent_at, call.sent_at = call.sent_at or now, None
        self._queue.appendleft(call)
        self._pause(sent_at)

    def _pause(self, sent_at: float) -> None:
        """Longer each time, and never the same for all who ask. What was sent before the last
        refusal says nothing new."""
        if sent_at < self._paused_at:
            return
        self._paused_at = time.monotonic()
        longest = min(_LONGEST_PAUSE_S, _PAUSE_S * 2**self._refusals)
        self._refusals = min(self._refusals + 1, 30)
        self._resume_at = self._paused_at + longest * random.uniform(0.5, 1)

    def _lost(self, call: _Call, why: str) -> None:
        with self._changed:
            call.counted = True
            call.billed_s = self.running_s(call)
            self.usage.lost += 1
            self.usage.lost_s += call.billed_s
        text = f"function {self.function}: its answer is lost ({why})"
        if not call.once:
            text += "; it may have done what was asked"
        call.settle(error=WorkerDiedError(text, answer_lost=True))

    # Answers

    def _answered(self, call: _Call, response: Mapping[str, Any], payload: bytes) -> None:
        log = base64.b64decode(response.get("LogResult", "")).decode("utf-8", "replace")
        report = Report.find(log)
        with self._changed:
            self._bucket.speed_up()
            call.counted = True
            call.billed_s = 0.0 if report is None else report.billed_s
            self._count(report)
            self._refusals, self._refused_since, self._trouble = 0, None, ""
            # A little more than was taken last time: the limit may have been raised.
            self._window = min(self._most, self._window + 1 / self._window)
        try:
            answer = json.loads(payload)
        except ValueError:
            answer = None
        if response.get("FunctionError"):
            error = self._failure(answer, report, _last_line(log))
            self.ends[error.kind if isinstance(error, WorkerDiedError) else "error"] += 1
            call.settle(error=error)
        elif not isinstance(answer, Mapping) or "cirrus_fast" not in answer:
            self.ends["error"] += 1
            call.settle(error=FunctionError(f"function {self.function}: is none of cirrus-fast's"))
        elif "error" in answer:
            self.ends["error"] += 1
            call.settle(error=_error(answer))
        else:
            self.ends["answered"] += 1
            result = answer["answer"]
            call.settle(result if call.kind == CALL else json.dumps(result))

    def _count(self, report: Report | None) -> None:
        usage = self.usage
        usage.requests += 1
        if report is not None:
            usage.billed_s += report.billed_s
            usage.gb_s += report.billed_s * report.memory_mb / 1024
            usage.peak_mb = max(usage.peak_mb, report.peak_mb)
            if report.init_s is not None:
                usage.cold_starts += 1
                usage.init_s += report.init_s

    def _failure(self, answer: Any, report: Report | None, last: str) -> CirrusFastError:
        """Why the function gave no answer of its own."""
        said = answer if isinstance(answer, Mapping) else {}
        kind, message = str(said.get("errorType", "")), str(said.get("errorMessage", ""))
        name, words = f"function {self.function}", f"; its last words: {last}" if last else ""
        if "Task timed out" in message or kind == "Sandbox.Timedout":
            return WorkerDiedError(f"{name}: timed out ({message}){words}", "timed out")
        full = report is not None and report.peak_mb >= 0.97 * report.memory_mb
        if kind == "Runtime.OutOfMemory" or (full and "killed" in message):
            size = report.memory_mb if report is not None else "its"
            return WorkerDiedError(
                f"{name}: out of memory: {size} MB are too few; give the function more and raise "
                f"worker_size, or take more workers{words}",
                "out of memory",
            )
        if kind == "Runtime.ExitError":
            return WorkerDiedError(f"{name}: died ({message}){words}", "sandbox died")
        return FunctionError(f"{name}: {kind or 'an error'}: {message}{words}")

    # Looking after

    @property
    def trouble(self) -> str:
        """Why calls wait, if Lambda refuses them."""
        return self._trouble

    @property
    def region(self) -> str:
        return str(self._client.meta.region_name)

    @property
    def usage_so_far(self) -> Usage:
        """The usage as it is at this moment."""
        with self._changed:
            return replace(self.usage)

    @property
    def under_way_s(self) -> list[float]:
        """How long each call that the usage has not yet has been under way."""
        with self._changed:
            return [self.running_s(one) for one in self._under_way if not one.counted]

    def running_s(self, future: Future[Any]) -> float:
        """How long a call has been under way; 0 while it waits."""
        sent_at = future.sent_at if isinstance(future, _Call) else None
        return 0.0 if sent_at is None else time.monotonic() - sent_at

    def billed_s(self, future: Future[Any]) -> float:
        """What a call was billed that has ended."""
        return future.billed_s if isinstance(future, _Call) else 0.0

    def kill(self, future: Future[Any]) -> None:
        """Waits no longer for a call, which fails with WorkerDiedError; Lambda ends it in time."""
        if isinstance(future, _Call):
            text = f"function {self.function}: gave no sign any more"
            future.settle(error=WorkerDiedError(text, "sandbox died"))

    def configuration(self) -> Mapping[str, Any] | None:
        """The function's memory, timeout and so on; None where that may not be asked."""
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            ConnectionError,
            EndpointConnectionError,
            HTTPClientError,
        )

        for attempt in range(_ATTEMPTS):
            try:
                found: Mapping[str, Any] = self._client.get_function_configuration(
                    FunctionName=self.function
                )
                if "MemorySize" in found:
                    return found
                # Else its headers were cut short, and their end taken for that of the answer.
            except ClientError as error:
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
                if status == 404:
                    self._refused(_Call(b"", CALL), error.response)
                if status != 429 and status < 500:
                    return None
            except BotoCoreError as error:
                if attempt == _ATTEMPTS - 1 or not isinstance(
                    error, ConnectionError | HTTPClientError
                ):
                    away = isinstance(error, EndpointConnectionError)
                    hint = "; is the region right?" if away else ""
                    raise FunctionError(f"function {self.function}: {error}{hint}") from error
            time.sleep(min(1.0, _PAUSE_S * 2**attempt))
        return None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls. With `cancel_futures`, those that wait are dropped, and those under
        way are waited for but shortly."""
        with self._changed:
            self._closed = True
            if cancel_futures:
                dropped, self._queue = list(self._queue), deque()
            else:
                dropped = []
            self._changed.notify_all()
        for call in dropped:
            call.cancel()
        if wait:
            self._wait(_GRACE_S if cancel_futures else math.inf)
            self._client.close()

    def _wait(self, seconds: float) -> None:
        """Until no call waits or is under way, at most so long."""
        until = time.monotonic() + seconds
        with self._changed:
            while self._queue or self._under_way:
                left = until - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(None if math.isinf(left) else left)


def _error(answer: Mapping[str, Any]) -> BaseException:
    """What a function raised, made again here."""
    name, message, arguments = answer["error"]
    error: BaseException = told(name, message, arguments)
    import builtins

    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with suppress(Exception):
            error = kind(message)
    error.__cause__ = FunctionTraceback(answer.get("traceback", ""))
    return error


class FunctionTraceback(Exception):
    """Where in the function an error arose."""

    def __str__(self) -> str:
        return f"in the function:\n{self.args[0]}"


def _last_line(log: str) -> str:
    """What the function said last, without Lambda's own lines."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for line in reversed(lines):
        if _PLATFORM.match(line):
            continue
        with suppress(ValueError, TypeError):
            return str(json.loads(line)["message"])
        return line[:500]
    return ""


def _keep_alive(client: Any) -> None:
    """Sooner than the system's two hours; botocore has no setting for it."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    options += [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    for name, value in _KEEP_ALIVE:
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    with suppress(AttributeError):
        client._endpoint.http_session._manager.connection_pool_kw["socket_options"] = options
