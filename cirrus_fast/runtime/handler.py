"""What AWS Lambda calls: one event in, one answer out (runtime/kinds.py).

The same `run_worker` as everywhere else, with a deadline: before the function's time is up the
worker leaves its position and its state in the store and says that it hands over.

What is imported here is imported at every cold start, before the first event: NumPy, the kernels
and the worker, no client library. Log lines are JSON, each with the run and worker it is about.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import cirrus_fast.runtime.remote  # noqa: F401  before the first event, not in its time
from cirrus_fast._version import __version__
from cirrus_fast.errors import FunctionError, KernelError, ParseError
from cirrus_fast.runtime.kinds import CALL, KINDS, PACKAGES, PACKAGES_VARIABLE

# How long before the function's time is up a worker begins no more rows: what is under way is to
# reach the store, and the state of the optimiser. A part of what time there is, at most so much,
# unless the function's environment says how many seconds.
_HAND_OVER_S, _HAND_OVER_SHARE = 10.0, 0.2
_HAND_OVER_VARIABLE = "CIRRUS_FAST_HAND_OVER_S"


class Context(Protocol):
    """What we use of Lambda's."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int: ...


def handler(event: object, context: Context) -> dict[str, Any]:
    """Does what an event asks for; what goes wrong is an answer too.

    An exception would be one of the function's errors to Lambda, which for some kinds of invocation
    tries again: that is the caller's to decide.
    """
    began = time.monotonic()
    log = _Log(event, context.aws_request_id)
    try:
        answer = _answer(event, began, context, log)
    except Exception as error:
        log.say("error", f"{type(error).__name__}: {error}")
        shown = "".join(traceback.format_exception(error))
        return {"cirrus_fast": __version__, "error": _told(error), "traceback": shown[-2000:]}
    finally:
        log.close()
    return {"cirrus_fast": __version__, "answer": answer}


def _answer(event: object, began: float, context: Context, log: _Log) -> Any:
    if not isinstance(event, Mapping) or "cirrus_fast" not in event or "kind" not in event:
        raise FunctionError(
            f"this function is cirrus-fast {__version__}'s, and the event is not of it: it has no "
            "version and kind"
        )
    if event["cirrus_fast"] != __version__:
        raise FunctionError(
            f"cirrus-fast {event['cirrus_fast']} asks a function whose layer has {__version__}: "
            "both must be the same; give the function a new layer, or install that version"
        )
    kind = event["kind"]
    if kind == CALL:
        return _call(event)
    if kind not in KINDS:
        raise FunctionError(f"kind {kind!r}: there are {', '.join(KINDS)} and {CALL}")
    left = context.get_remaining_time_in_millis() / 1000
    said = os.environ.get(_HAND_OVER_VARIABLE)
    needed = float(said) if said else min(_HAND_OVER_S, _HAND_OVER_SHARE * left)
    deadline = began + left - needed
    log.say("info", f"{kind} begins, {left:.3f} s left")
    work: Callable[[str, float], str] = _find(KINDS[kind])
    answer = json.loads(work(json.dumps(event["spec"]), deadline))
    handed_over = isinstance(answer, dict) and answer.get("handed_over")
    log.say("info", f"{kind} {'hands over' if handed_over else 'ends'}")
    return answer


def _call(event: Mapping[str, Any]) -> Any:
    """A function of a package that is in the layer, with arguments that JSON can carry."""
    name = str(event.get("function"))
    allowed = {*PACKAGES, *filter(None, os.environ.get(PACKAGES_VARIABLE, "").split(","))}
    if name.partition(":")[0].partition(".")[0] not in allowed:
        raise FunctionError(
            f"{name}: the function calls what is in {', '.join(sorted(allowed))}; "
            f"{PACKAGES_VARIABLE} in its environment names more"
        )
    answer = _find(name)(*event.get("arguments", ()))
    try:
        json.dumps(answer, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise FunctionError(f"{name}: what it returns is nothing that JSON has ({error})") from None
    return answer


def _find(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise FunctionError(f"{name}: cannot be imported in the function ({error})") from error
    if not callable(found):
        raise FunctionError(f"{name}: there is no such function in the layer")
    call: Callable[..., Any] = found
    return call


def _told(error: Exception) -> tuple[str, str, dict[str, Any]]:
    """An error as the caller makes it again (errors.told)."""
    if isinstance(error, ParseError | KernelError):
        return type(error).__name__, str(error), vars(error)
    return type(error).__name__, str(error), {}


class _Log(logging.Handler):
    """One JSON object a line, on standard output, for the time of one event; this package's
    notices too."""

    def __init__(self, event: object, request: str) -> None:
        super().__init__()
        self._about: dict[str, Any] = {"request": request}
        spec = event.get("spec") if isinstance(event, Mapping) else None
        if isinstance(spec, Mapping):
            self._about |= {
                name: spec[name] for name in ("task", "worker", "generation") if name in spec
            }
        self._logger = logging.getLogger("cirrus_fast")
        self._propagates, self._logger.propagate = self._logger.propagate, False
        self._logger.addHandler(self)

    def say(self, level: str, message: str) -> None:
        line = {"level": level, "message": message} | self._about | {"time": round(time.time(), 3)}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    def emit(self, record: logging.LogRecord) -> None:
        self.say(record.levelname.lower(), record.getMessage())

    def close(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagates
        super().close()
