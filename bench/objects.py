"""A folder as an S3 server that costs little: `python -m bench.objects FOLDER`.

Of FOLDER/bucket/key: GET, whole or a range, and HEAD, with ETag and If-Match; PUT, whole; DELETE;
and of a folder's objects, ListObjectsV2. Bodies
go from the page cache to the socket without passing through Python, so that what is measured is
the reader: moto's server copies the whole object for every range of it.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class _Objects(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, *arguments: object) -> None:
        self._folder = folder
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        path, query = self._place()
        if "list-type" in query:
            self._list(path / query.get("prefix", [""])[0], query)
            return
        try:
            file = path.open("rb")
        except OSError:
            self._refuse(404, "NoSuchKey")
            return
        with file:
            status = os.fstat(file.fileno())
            etag = f'"{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ino:x}"'
            if self.headers.get("If-Match", etag) != etag:
                self._refuse(412, "PreconditionFailed")
                return
            asked = _RANGE.fullmatch(self.headers.get("Range", ""))
            begin, end = 0, status.st_size
            if asked:
                begin = int(asked[1])
                end = min(end, int(asked[2] or end) + 1)
                if begin >= end:
                    self._refuse(416, "InvalidRange")
                    return
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{status.st_size}")
            self.send_header("Content-Length", str(end - begin))
            self.send_header("ETag", etag)
            self.end_headers()
            if self.command == "GET":
                self.wfile.flush()
                self._send(file.fileno(), begin, end)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        path, _ = self._place()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all; writers of one key do not meet.
        unfinished = path.with_name(f".{path.name}.{threading.get_ident()}")
        unfinished.write_bytes(body)
        unfinished.replace(path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_DELETE(self) -> None:
        self._place()[0].unlink(missing_ok=True)
        self.send_response(204)
        self.end_headers()

    def _place(self) -> tuple[Path, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return self._folder / unquote(parts.path).lstrip("/"), parse_qs(parts.query)

    def _list(self, folder: Path, query: dict[str, list[str]]) -> None:
        """All in one answer."""
        prefix = query.get("prefix", [""])[0]
        found = []
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            key = f"{prefix}{path.name}"
            found.append(
                f"<CommonPrefixes><Prefix>{key}/</Prefix></CommonPrefixes>"
                if path.is_dir()
                else f"<Contents><Key>{key}</Key><Size>{path.stat().st_size}</Size></Contents>"
            )
        body = f"<ListBucketResult>{''.join(found)}</ListBucketResult>".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send(self, descriptor: int, begin: int, end: int) -> None:
        try:
            while begin < end:
                begin += os.sendfile(self.connection.fileno(), descriptor, begin, end - begin)
        except ConnectionError:  # whoever asked has gone
            self.close_connection = True

    def _refuse(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None: ...


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """HOST:PORT of a server of the folder, in a process of its own."""
    with serving(folder) as (address, _):
        yield address


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, int]]:
    """The same, with the number of the process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.objects", str(folder)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def speak_to(address: str) -> None:
    """From now on this process, and those it starts, find S3 at that HOST:PORT."""
    from cirrus_fast.data import s3

    for name in [name for name in os.environ if name.startswith(("AWS_", "CIRRUS_FAST_S3_"))]:
        del os.environ[name]
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{address}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull + "/none",
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull + "/none",
    }
    s3.forget()


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    server = _Server(("127.0.0.1", 0), partial(_Objects, Path(sys.argv[1])))
    print(f"127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
