"""A connection to a Redis or Valkey server, and what to do when it is lost.

The protocol (RESP2) is spoken here, on plain sockets: importing a client library takes a cold
worker some 200 ms, half of what it has for all imports, and the large commands and replies are
packed and read in C anyway. One connection, one thread; commands may be sent ahead of the replies.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from cirrus_fast._kernels import BitfieldReply, StepBatch
from cirrus_fast.errors import KernelError, StoreError
from cirrus_fast.store_url import PASSWORD_VARIABLE, StoreUrl

# Room that answers are received into; whole strings go past it, but for those that are read in
# place, for which it grows.
_BUFFER_BYTES = 1 << 18
_LONGEST_STRING = 1 << 29
_LONGEST_ARRAY = 1 << 24
# How long a server that is away, loading, or between two masters is waited for.
GIVE_UP_S = 30.0
# Between two attempts, at first and at most.
_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0

# First words of refusals that pass by themselves.
_PASSING = frozenset(
    (
        *("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN", "BUSY"),
        "UNBLOCKED",
    )
)
_HINTS = {
    "OOM": "the server's memory is full: give it more (maxmemory), or the run fewer workers",
    "NOAUTH": f"the server wants a password: put it into the URL or {PASSWORD_VARIABLE}",
    "WRONGPASS": f"user or password are wrong: look at the URL and {PASSWORD_VARIABLE}",
    "NOPERM": "the user may not do this: docs/redis.md says which commands and keys a run needs",
    "WRONGTYPE": "a key of the run holds something else: another program writes to it",
    "READONLY": "the server is a replica: give the address of its master",
    "MISCONF": "the server cannot save to its disk and takes no writes",
    "NOREPLICAS": "the server has fewer replicas than it wants for a write",
}

T = TypeVar("T")


class Lost(Exception):
    """The connection broke, or did not answer in time. What was sent may have been done or not."""


class Refused(StoreError):
    """The server's own error: what was asked has not been done.

    code : its first word
    """

    def __init__(self, line: str, place: str = "") -> None:
        self.code = line.partition(" ")[0]
        hint = _HINTS.get(self.code)
        super().__init__(f"{place}: {line}" + (f" ({hint})" if hint else ""))

    @property
    def passes(self) -> bool:
        return self.code in _PASSING or "max number of clients" in str(self)


def pack(*arguments: bytes | str | int | float) -> bytes:
    """One command."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        if not isinstance(argument, bytes):
            argument = str(argument).encode()
        parts += (b"$%d\r\n" % len(argument), argument, b"\r\n")
    return b"".join(parts)


class Connection:
    """An open connection, logged in and in the right database."""

    def __init__(self, url: StoreUrl, host: str | None = None, port: int | None = None) -> None:
        """host, port : of another server of the same cluster"""
        self.host, self.port = host or url.host, port or url.port
        self.place = f"{self.host}:{self.port}" if host else url.place
        self._url = url
        self._buffer = bytearray(_BUFFER_BYTES)
        self._begin = self._end = 0
        self.bytes_sent = self.bytes_received = 0
        try:
            self._socket = self._open()
        except OSError as error:
            raise Lost(f"cannot be reached ({_why(error)})") from error
        try:
            self._log_in()
        except BaseException:
            self.close()
            raise

    def _open(self) -> socket.socket:
        url = self._url
        if url.scheme == "unix":
            opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            opened.settimeout(url.timeout)
            try:
                opened.connect(url.path)
            except OSError:
                opened.close()
                raise
            _wait_in_kernel(opened, url.timeout)
            return opened
        opened = socket.create_connection((self.host, self.port), url.timeout)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if url.scheme == "redis":
            _wait_in_kernel(opened, url.timeout)
            return opened
        import ssl

        try:
            context = ssl.create_default_context(cafile=url.ca_certs)
            if url.certfile:
                context.load_cert_chain(url.certfile, url.keyfile)
            return context.wrap_socket(opened, server_hostname=self.host)
        except ssl.SSLCertVerificationError as error:
            opened.close()
            raise StoreError(
                f"{self.place}: its certificate is not trusted ({error.verify_message}); name the "
                "authority's with ?ssl_ca_certs=FILE"
            ) from error
        except ssl.SSLError as error:
            opened.close()
            raise StoreError(
                f"{self.place}: TLS fails ({error.reason or error}); is it redis:// without TLS?"
            ) from error
        except OSError as error:
            opened.close()
            if error.filename or error.errno == 2:  # certificate files
                raise StoreError(f"{self.place}: certificate files: {_why(error)}") from error
            raise

    def _log_in(self) -> None:
        url = self._url
        if url.password or url.username:
            user = [url.username] if url.username else []
            self.ask("AUTH", *user, url.password)
        if url.db:
            self.ask("SELECT", url.db)

    def close(self) -> None:
        self._socket.close()

    def interrupt(self) -> None:
        """Ends what another thread waits for here, as if the connection were lost."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def send(self, data: bytes | bytearray | memoryview) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise Lost(f"the connection broke ({_why(error)})") from error
        self.bytes_sent += len(data)

    def ask(self, *arguments: bytes | str | int | float) -> Any:
        """Sends one command and reads its answer."""
        self.send(pack(*arguments))
        return self.read()

    def ask_all(self, *commands: tuple[bytes | str | int | float, ...]) -> list[Any]:
        """The same for several, in one go; raises the first refusal after all were read."""
        self.send(b"".join(pack(*command) for command in commands))
        return self.read_all(len(commands))

    def read_all(self, n: int) -> list[Any]:
        answers: list[Any] = []
        refusal: Refused | None = None
        for _ in range(n):
            try:
                answers.append(self.read())
            except Refused as error:
                refusal = refusal or error
        if refusal is not None:
            raise refusal
        return answers

    @property
    def has_more(self) -> bool:
        """Whether something was received that is not read yet."""
        return self._begin < self._end

    def read(self) -> Any:
        """An answer: bytes, int, None or a list of such. Raises Refused for the server's error."""
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            raise Refused(rest.decode("utf-8", "replace"), self.place)
        number = self._number(rest)
        if kind == b":":
            return number
        if kind == b"$" and -1 <= number <= _LONGEST_STRING:
            return None if number < 0 else bytes(self._string(number))
        if kind == b"*" and -1 <= number <= _LONGEST_ARRAY:
            return None if number < 0 else [self.read() for _ in range(number)]
        raise Lost(f"it sends what is not Redis's protocol ({line[:20]!r})")

    def read_string_into(self, out: memoryview) -> bool:
        """A string answer of exactly this length; False if it has another."""
        line = self._line()
        if line[:1] == b"-":
            raise Refused(line[1:].decode("utf-8", "replace"), self.place)
        n = self._number(line[1:])
        if line[:1] != b"$" or not 0 <= n <= _LONGEST_STRING:
            raise Lost(f"it sends what is not Redis's protocol ({line[:20]!r})")
        if n != len(out):
            self._string(n)
            return False
        self._fill(out)
        self._crlf()
        return True

    def read_bitfield(self, reply: BitfieldReply) -> None:
        """The answer to a packed BITFIELD command."""
        while not reply.complete:
            if self._begin < self._end and self._buffer[self._begin] == ord("-"):
                self.read()  # raises
            try:
                self._begin = reply.read(self._buffer, self._begin, self._end)
            except KernelError as error:
                near = bytes(self._buffer[error.entry : error.entry + 20])
                raise Lost(f"it sends no reply to BITFIELD ({near!r})") from error
            if not reply.complete:
                self._receive()

    def read_step(self, batch: StepBatch, shard: int) -> None:
        """The answer to a step, whose weights go to the mini-batch that was pulled."""
        while True:
            try:
                end = batch.read(shard, self._buffer, self._begin, self._end)
            except KernelError as error:
                raise Lost(f"it sends no answer to a step ({error})") from error
            if end > 0:
                self._begin = end
                return
            if end < 0:
                answer = self.read()  # raises, if it is an error
                raise Lost(f"it sends no answer to a step ({str(answer)[:20]})")
            self._receive()

    def _line(self) -> bytes:
        while True:
            at = self._buffer.find(b"\r\n", self._begin, self._end)
            if at >= 0:
                line = bytes(self._buffer[self._begin : at])
                self._begin = at + 2
                return line
            if self._end - self._begin > 4096:
                raise Lost("it sends what is not Redis's protocol (a line without end)")
            self._receive()

    def _number(self, text: bytes) -> int:
        try:
            return int(text)
        except ValueError:
            raise Lost(f"it sends what is not Redis's protocol ({text[:20]!r})") from None

    def _string(self, n: int) -> bytearray:
        out = bytearray(n)
        self._fill(memoryview(out))
        self._crlf()
        return out

    def _crlf(self) -> None:
        while self._end - self._begin < 2:
            self._receive()
        if self._buffer[self._begin : self._begin + 2] != b"\r\n":
            raise Lost("it sends what is not Redis's protocol (a string without end)")
        self._begin += 2

    def _fill(self, out: memoryview) -> None:
        have = min(len(out), self._end - self._begin)
        out[:have] = memoryview(self._buffer)[self._begin : self._begin + have]
        self._begin += have
        while have < len(out):
            have += self._receive_into(out[have:])

    def _receive(self) -> None:
        """More bytes behind those in the buffer."""
        left = self._end - self._begin
        if self._begin and (left == 0 or self._end == len(self._buffer)):
            self._buffer[:left] = self._buffer[self._begin : self._end]
            self._begin, self._end = 0, left
        elif self._end == len(self._buffer):
            self._buffer += bytes(len(self._buffer))
        self._end += self._receive_into(memoryview(self._buffer)[self._end :])

    def _receive_into(self, out: memoryview) -> int:
        try:
            n = self._socket.recv_into(out)
        except OSError as error:
            raise Lost(f"the connection broke ({_why(error)})") from error
        if n == 0:
            raise Lost("it closed the connection")
        self.bytes_received += n
        return n


def _wait_in_kernel(opened: socket.socket, timeout: float) -> None:
    """The same timeout, without Python's own way to it: a system call more for each call."""
    spec = struct.pack("ll", *divmod(max(1, round(1e6 * timeout)), 1_000_000))  # 0 is for ever
    opened.settimeout(None)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, spec)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, spec)


def nothing(connection: Connection) -> None:
    """What to do with a connection that is only to be there."""


class Link:
    """The server that has a key, connected anew whenever that is needed.

    Attributes
    ----------
    welcome : called with each new connection before it is used
    connects : connections made
    """

    def __init__(
        self,
        urls: tuple[StoreUrl, ...],
        key: bytes,
        *,
        clustered: bool,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        urls : where it is; in a cluster, servers to ask where it is
        stopping : whether waiting for the server is no longer worth while
        """
        self._urls, self._key, self._clustered = urls, key, clustered
        self._stopping = stopping
        self.welcome: Callable[[Connection], None] = nothing
        self._connection: Connection | None = None
        self._nodes: list[tuple[str, int]] = []
        self.connects = 0
        self._sent = self._received = 0

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received."""
        here = self._connection
        more = (here.bytes_sent, here.bytes_received) if here is not None else (0, 0)
        return self._sent + more[0], self._received + more[1]

    @property
    def place(self) -> str:
        return self._connection.place if self._connection is not None else self._urls[0].place

    @property
    def is_closed(self) -> bool:
        return self._connection is None

    def close(self) -> None:
        if self._connection is not None:
            self._sent, self._received = self.traffic
            self._connection.close()
            self._connection = None

    def interrupt(self) -> None:
        """Ends what another thread waits for, who is then told to be `stopping`, or tries again."""
        if self._connection is not None:
            self._connection.interrupt()

    def connection(self) -> Connection:
        """The open connection, or a new one; does not wait for a server that is away."""
        if self._connection is None:
            made = self._locate() if self._clustered else Connection(self._urls[0])
            try:
                self.welcome(made)
            except BaseException:
                made.close()
                raise
            self._connection = made
            self.connects += 1
        return self._connection

    def _locate(self) -> Connection:
        """To the master of the key's slot, as the servers known of say."""
        slot, last = key_slot(self._key), Lost("no server of the cluster answers")
        known = [(url.host, url.port) for url in self._urls]
        for host, port in [*known, *self._nodes]:
            try:
                asked = Connection(self._urls[0], host, port)
            except Lost as error:
                last = error
                continue
            try:
                ranges = asked.ask("CLUSTER", "SLOTS")
                masters = read_slots(ranges, host)
            except Lost as error:
                last = error
                continue
            finally:
                asked.close()
            self._nodes = list(dict.fromkeys(node for _, _, node in masters))
            for first, end, node in masters:
                if first <= slot <= end:
                    return Connection(self._urls[0], *node)
            last = Lost(f"no server of the cluster has slot {slot}")
        raise last

    def ask(self, *arguments: bytes | str | int | float, give_up_s: float | None = None) -> Any:
        """The answer to a command that may be done more than once."""
        return self.again(lambda connection: connection.ask(*arguments), give_up_s=give_up_s)

    def ask_all(
        self, *commands: tuple[bytes | str | int | float, ...], give_up_s: float | None = None
    ) -> list[Any]:
        """The same for several."""
        return self.again(lambda connection: connection.ask_all(*commands), give_up_s=give_up_s)

    def again(self, act: Callable[[Connection], T], *, give_up_s: float | None = None) -> T:
        """`act` on a connection, which may be done more than once: after a lost connection or a
        refusal that passes it is tried again for a while."""
        patience = GIVE_UP_S if give_up_s is None else give_up_s
        until, pause = time.monotonic() + patience, _PAUSE_S
        while True:
            try:
                return act(self.connection())
            except Lost as error:
                why: Exception = error
            except Refused as error:
                if not error.passes:
                    self.close()
                    raise
                why = error
            except BaseException:  # answers may be left unread: Ctrl-C, above all
                self.close()
                raise
            place = self.place
            self.close()
            if time.monotonic() >= until or self._stopping():
                said = str(why).removeprefix(f"{place}: ")
                raise StoreError(f"{place}: {said}; given up after {patience:g} s") from why
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)


def read_slots(answer: Any, asked_host: str) -> list[tuple[int, int, tuple[str, int]]]:
    """(first slot, last slot, (host, port) of the master) of an answer to CLUSTER SLOTS."""
    try:
        return [
            (int(first), int(end), (master[0].decode() or asked_host, int(master[1])))
            for first, end, master, *_ in answer
        ]
    except (TypeError, ValueError, AttributeError) as error:
        raise Lost("it sends no map of a cluster") from error


def key_slot(key: bytes) -> int:
    """The cluster's slot of a key: CRC-16 (XMODEM) of what is between its first braces, if any."""
    begin = key.find(b"{")
    end = key.find(b"}", begin + 1)
    if begin >= 0 and end > begin + 1:
        key = key[begin + 1 : end]
    crc = 0
    for byte in key:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc % 16384


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError | BlockingIOError):
        return "no answer in time"
    return error.strerror or str(error) or type(error).__name__
