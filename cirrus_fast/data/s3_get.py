"""Bytes out of S3: ranged GETs into the caller's memory, retried where they broke off.

http.client's readinto costs two thirds of the CPU of boto3's body reader, and http.client is all
there is to import.
"""

from __future__ import annotations

import errno
import http.client
import os
import random
import re
import socket
import ssl
import time
from collections.abc import Callable
from threading import Lock

from cirrus_fast.data.s3_signing import Request, Signer
from cirrus_fast.data.traffic import Traffic
from cirrus_fast.errors import StorageError

# An answer that breaks off goes on where it broke; so many failures in a row without a byte, or so
# many in all, are the end.
MOST_FRUITLESS = 6
MOST_ATTEMPTS = 60
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_TIMEOUT_S = 20.0
_SLICE_BYTES = 1 << 18
_RETRIED = {408, 429, 500, 502, 503, 504}
_RETRIED_CODES = {"RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable"}


Arrived = Callable[[int], object]


class _Broken(Exception):
    """An attempt failed in a way that another may not; the message says how."""


class Getter:
    """Reads objects of one bucket. May be used on many threads; keeps connections open."""

    def __init__(
        self,
        signer: Signer,
        bucket: str,
        *,
        timeout: float = _TIMEOUT_S,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._signer = signer
        self._bucket = bucket
        self._timeout = timeout
        self._pause = pause
        self._idle: dict[tuple[str, str], list[http.client.HTTPConnection]] = {}
        self._lock = Lock()
        self._tls: ssl.SSLContext | None = None
        self.traffic = Traffic()  # for all who read

    def read(self, key: str, traffic: Traffic | None = None) -> bytes:
        """A whole object. traffic : counts this reading too"""
        fetch = _Fetch(self, key, 0, None, None, traffic)
        fetch.run()
        assert fetch.view is not None
        return bytes(fetch.view)

    def read_into(
        self,
        key: str,
        offset: int,
        out: memoryview,
        etag: str | None = None,
        traffic: Traffic | None = None,
        arrived: Arrived | None = None,
    ) -> str | None:
        """Fills `out` with the bytes from `offset` on; returns the object's ETag.

        etag : of the object as it was, which it must still be; traffic : counts this reading too
        arrived : is told how many bytes are there, as they come

        Raises
        ------
        StorageError : missing, forbidden, shorter than that, replaced meanwhile, or unreachable
            after bounded retries; names the object
        """
        if len(out) == 0:
            return etag
        fetch = _Fetch(self, key, offset, out, etag, traffic, arrived)
        fetch.run()
        return fetch.etag

    def close(self) -> None:
        """Closes idle connections."""
        with self._lock:
            connections = [c for idle in self._idle.values() for c in idle]
            self._idle.clear()
        for connection in connections:
            connection.close()

    def leave_to_parent(self) -> None:
        """`close` in a process forked off, where the lock may be held by a thread that is not
        there. Only this process's descriptors go: the parent's connections stay up."""
        self._lock = Lock()
        self.close()

    def _connection(self, request: Request) -> tuple[http.client.HTTPConnection, bool]:
        """(connection, whether it was used before)"""
        place = (request.scheme, request.host)
        with self._lock:
            idle = self._idle.get(place)
            if idle:
                return idle.pop(), True
        proxy = _proxy(request)
        if request.scheme == "https":
            if self._tls is None:
                self._tls = _tls()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                proxy or request.host, timeout=self._timeout, context=self._tls
            )
            if proxy:
                connection.set_tunnel(request.host)
        else:
            connection = http.client.HTTPConnection(proxy or request.host, timeout=self._timeout)
        return connection, False

    def _keep(self, request: Request, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._idle.setdefault((request.scheme, request.host), []).append(connection)


class _Fetch:
    """One read, over as many attempts as it takes."""

    def __init__(
        self,
        getter: Getter,
        key: str,
        offset: int,
        out: memoryview | None,
        etag: str | None,
        traffic: Traffic | None,
        arrived: Arrived | None = None,
    ) -> None:
        self._getter = getter
        self._key = key
        self._offset = offset
        self.view = out  # None: the whole object, whose size the first answer tells
        self.etag = etag
        self._counts = [getter.traffic] if traffic is None else [getter.traffic, traffic]
        self._arrived = arrived
        self._got = 0
        self._renewed = False

    def run(self) -> None:
        fruitless = attempt = 0
        while True:
            attempt += 1
            before = self._got
            try:
                self._attempt()
                return
            except _Broken as error:
                fruitless = 0 if self._got > before else fruitless + 1
                if fruitless == MOST_FRUITLESS or attempt == MOST_ATTEMPTS:
                    raise StorageError(f"{self._name}: {error} (attempt {attempt})") from error
                self._count(retries=1)
                longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**fruitless)
                self._getter._pause(random.uniform(0, longest))

    def _count(self, **more: int) -> None:
        for traffic in self._counts:
            traffic.add(**more)

    @property
    def _name(self) -> str:
        return f"s3://{self._getter._bucket}/{self._key}"

    def _attempt(self) -> None:
        getter = self._getter
        request = getter._signer.get(getter._bucket, self._key)
        headers = dict(request.headers)
        ranged = self.view is not None
        if self.view is not None:
            last = self._offset + len(self.view) - 1
            headers["range"] = f"bytes={self._offset + self._got}-{last}"
        if self.etag is not None:
            headers["if-match"] = self.etag
        try:
            connection, used = getter._connection(request)
        except (StorageError, http.client.InvalidURL) as error:
            hint = "" if isinstance(error, StorageError) else "; see AWS_ENDPOINT_URL, HTTPS_PROXY"
            raise StorageError(f"{self._name}: {error}{hint}") from error
        clean = False
        try:
            self._count(requests=1)
            try:
                answer = self._ask(connection, request, headers)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                if not used:
                    raise
                connection.close()  # it had gone stale while it was idle: a fresh one, at once
                answer = self._ask(connection, request, headers)
            self._check(answer, ranged)
            self._receive(answer)
            clean = not answer.will_close
        except ssl.SSLCertVerificationError as error:
            raise StorageError(
                f"{self._name}: {request.host} is not whom its certificate says "
                f"({error.verify_message}); AWS_CA_BUNDLE names other authorities"
            ) from error
        except TimeoutError as error:
            raise _Broken(f"no answer within {getter._timeout:g} s") from error
        except socket.gaierror as error:
            raise _Broken(f"{request.host} has no address ({error.strerror})") from error
        except UnicodeError as error:  # from the look-up of the host
            raise StorageError(
                f"{self._name}: {request.host} is no name of a host ({error}); is the bucket right?"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, StorageError):
                raise
            raise _Broken(f"connection lost ({type(error).__name__}: {error})") from error
        finally:
            if clean:
                getter._keep(request, connection)
            else:
                connection.close()

    def _ask(
        self, connection: http.client.HTTPConnection, request: Request, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        connection.request("GET", request.target, headers=headers)
        if connection.sock is not None:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection.getresponse()

    def _check(self, answer: http.client.HTTPResponse, ranged: bool) -> None:
        status = answer.status
        if status in (200, 206):
            etag = answer.getheader("etag")
            if self.etag is not None and etag is not None and etag != self.etag:
                raise replaced(self._name)
            self.etag = self.etag or etag
            start = 0
            if status == 206:
                span = re.match(r"bytes (\d+)-", answer.getheader("content-range") or "")
                start = int(span[1]) if span else -1
            if ranged and start != self._offset + self._got:
                raise StorageError(
                    f"{self._name}: the server answered another range than was asked for"
                )
            if self.view is None:
                if answer.length is None:
                    raise StorageError(f"{self._name}: the server does not say how long it is")
                self.view = memoryview(bytearray(answer.length))
            return
        body = answer.read(4096).decode("utf-8", "replace")
        code = _tag(body, "Code")
        said = f"{status} {code or answer.reason}"
        if status == 412:
            raise replaced(self._name)
        if status == 416:
            raise StorageError(f"{self._name}: is shorter than it should be; it was cut short")
        if status == 404:
            raise StorageError(errno.ENOENT, f"no such object ({said})", self._name)
        region = answer.getheader("x-amz-bucket-region") or _tag(body, "Region")
        if status in (301, 307) or code == "AuthorizationHeaderMalformed":
            raise StorageError(
                f"{self._name}: is in region {region or 'unknown'}; "
                "set AWS_REGION and AWS_DEFAULT_REGION"
            )
        if status in _RETRIED or code in _RETRIED_CODES:
            raise _Broken(f"the server said {said}")
        if code in ("ExpiredToken", "TokenRefreshRequired", "InvalidToken"):
            if not self._renewed and self._getter._signer.renew():
                self._renewed = True
                raise _Broken(f"the credentials have expired ({said})")
            raise StorageError(f"{self._name}: the credentials have expired ({said}); renew them")
        hint = "; may these credentials read it?" if status in (401, 403) else ""
        raise StorageError(f"{self._name}: the server said {said}{hint}")

    def _receive(self, answer: http.client.HTTPResponse) -> None:
        view = self.view
        assert view is not None
        before = self._got
        try:
            while self._got < len(view):
                # Not all at once: what came before a time-out would be lost.
                n = answer.readinto(view[self._got : self._got + _SLICE_BYTES])
                if n == 0:
                    raise _Broken(f"the answer ended after {self._got} of {len(view)} bytes")
                self._got += n
                if self._arrived is not None:
                    self._arrived(self._got)
        finally:
            self._count(n_bytes=self._got - before)
        if answer.length:  # a server that ignores ranges sends more than was asked for
            answer.will_close = True


def replaced(name: str) -> StorageError:
    return StorageError(f"{name}: was replaced while it was being read")


def _tag(body: str, name: str) -> str | None:
    found = re.search(rf"<{name}>([^<]*)</{name}>", body)
    return found[1] if found else None


def _tls() -> ssl.SSLContext:
    bundle = os.environ.get("AWS_CA_BUNDLE") or None
    try:
        return ssl.create_default_context(cafile=bundle)
    except OSError as error:
        why = error.strerror or error
        raise StorageError(f"AWS_CA_BUNDLE={bundle}: no certificates there ({why})") from error


def _proxy(request: Request) -> str | None:
    """host:port of the proxy the environment asks for, of which only those for https are used."""
    if request.scheme != "https" or not any(n.lower() == "https_proxy" for n in os.environ):
        return None
    from urllib.request import getproxies, proxy_bypass

    if proxy_bypass(request.host):
        return None
    return getproxies().get("https", "").split("://")[-1].rstrip("/") or None
