"""The Runtime API, as a sandbox's process sees it: where it gets events from and answers to.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from dataclasses import dataclass

from cirrus_fast.local_lambda.http import QuietHandler, QuietServer

_PREFIX = "/2018-06-01/runtime/"


@dataclass(frozen=True, slots=True)
class Event:
    request: str
    payload: bytes
    deadline: float  # by time.time
    arn: str


@dataclass(frozen=True, slots=True)
class Said:
    """What the process told: it is ready for an event, or how one ended.

    what : ready, answer, error or init error
    """

    what: str
    request: str = ""
    payload: bytes = b""


class RuntimeApi:
    """Of one sandbox, on a port of its own.

    Attributes
    ----------
    said : what the process told, in turn; whoever waits for it can select on `wakes`
    """

    def __init__(self) -> None:
        self.said: queue.SimpleQueue[Said] = queue.SimpleQueue()
        self.wakes, self._wake = os.pipe()
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.api = self
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._closed = False
        self._lock = threading.Lock()
        threading.Thread(target=self._server.serve_forever, args=(0.5,), daemon=True).start()

    def offer(self, event: Event) -> None:
        """For whoever asks next."""
        self._events.put(event)

    def tell(self, said: Said) -> None:
        with self._lock:
            if not self._closed:
                self.said.put(said)
                os.write(self._wake, b"!")

    def next(self) -> Event | None:
        self.tell(Said("ready"))
        return self._events.get()

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            os.close(self.wakes)
            os.close(self._wake)
        self._events.put(None)
        # Not waited for: it may take half a second.
        threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(QuietServer):
    api: RuntimeApi


class _Handler(QuietHandler):
    server: _Server

    def do_GET(self) -> None:
        if self.path != f"{_PREFIX}invocation/next":
            self.answer(404, b"{}", {})
            return
        event = self.server.api.next()
        if event is None:
            self.close_connection = True
            return
        self.answer(
            200,
            event.payload,
            {
                "Lambda-Runtime-Aws-Request-Id": event.request,
                "Lambda-Runtime-Deadline-Ms": str(int(event.deadline * 1000)),
                "Lambda-Runtime-Invoked-Function-Arn": event.arn,
                "Lambda-Runtime-Trace-Id": f"Root=1-{int(time.time()):08x}-{'0' * 24}",
            },
        )

    def do_POST(self) -> None:
        payload = self._body()
        parts = self.path.removeprefix(_PREFIX).split("/")
        if parts == ["init", "error"]:
            self.server.api.tell(Said("init error", "", payload))
        elif len(parts) == 3 and parts[2] in ("response", "error"):
            what = "answer" if parts[2] == "response" else "error"
            self.server.api.tell(Said(what, parts[1], payload))
        else:
            self.answer(404, b"{}", {})
            return
        self.answer(202, b'{"status":"OK"}', {})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)


def error_payload(kind: str, message: str) -> bytes:
    return json.dumps({"errorType": kind, "errorMessage": message}).encode()
