"""The command local-lambda."""

from __future__ import annotations

import click

from cirrus_fast.cli import output
from cirrus_fast.cli.output import command


@command("local-lambda")
@click.option(
    "--layer",
    type=click.Path(exists=True, dir_okay=False),
    metavar="ZIP",
    help="What `cirrus-fast layer build` wrote; by default what is installed here stands for it.",
)
@click.option(
    "--code",
    type=click.Path(exists=True, file_okay=False),
    metavar="DIR",
    help="Folder of the function's own modules.",
)
@click.option(
    "--function", "name", metavar="NAME", help="[default: $CIRRUS_FAST_FUNCTION, else cirrus-fast]"
)
@click.option("--port", type=click.IntRange(1, 65535), help="Port; by default a free one.")
@click.option(
    "--memory",
    type=click.IntRange(128, 10_240),
    default=2048,
    show_default=True,
    metavar="MB",
    help="A sandbox that uses more is killed.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 900, min_open=True),
    default=900.0,
    show_default=True,
    metavar="SECONDS",
    help="An invocation that takes longer is ended.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Sandboxes that may be busy at once.",
)
@click.option(
    "--fail",
    type=click.FloatRange(0, 1),
    default=0.0,
    metavar="SHARE",
    help="Refuse this share of the invocations, with 429, 500, 502 and 503.",
)
@click.option(
    "--kill-every",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Kill a busy sandbox, drawn at random, so often.",
)
@click.option(
    "--env",
    "variables",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="Variable of the function's environment, without a value as it is here; may be given "
    "again. AWS_... variables are passed on as they are.",
)
def local_lambda_command(
    layer: str | None,
    code: str | None,
    name: str | None,
    port: int | None,
    memory: int,
    timeout: float,
    concurrency: int,
    fail: float,
    kill_every: float | None,
    variables: tuple[str, ...],
    as_json: bool,
) -> None:
    """Serve a function as AWS Lambda does, on this machine.

    Its URL is printed when it is ready: give it as AWS_ENDPOINT_URL_LAMBDA. Ctrl-C ends it. Each
    sandbox is a process of AWS's own runtime client, with nothing on its path but the layer. What
    functions log is shown on standard error.
    """
    import signal
    import tempfile
    import threading
    from pathlib import Path

    from cirrus_fast.backend.function_place import function_place
    from cirrus_fast.local_lambda.function import Function, installed_layer, unpack_layer
    from cirrus_fast.local_lambda.server import Faults, LocalLambda

    over = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: over.set())
    try:
        with tempfile.TemporaryDirectory(prefix="cirrus_fast_opt_") as folder:
            opt = Path(folder, "opt")
            function = Function(
                name or function_place().name,
                unpack_layer(layer, opt) if layer else installed_layer(opt),
                code=None if code is None else Path(code).resolve(),
                environment=_environment(variables),
                memory_mb=memory,
                timeout_s=timeout,
            )
            with LocalLambda(
                [function],
                port=port or 0,
                concurrency=concurrency,
                faults=Faults(fail, kill_every_s=kill_every or 0.0),
                show=lambda line: click.echo(line, err=True),
            ) as local:
                if as_json:
                    output.show_json({"url": local.url, "function": function.name})
                else:
                    click.echo(local.url)
                    click.echo(f"function {function.name}; stop it with Ctrl-C", err=True)
                while not over.wait(1.0):
                    pass
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)


def _environment(given: tuple[str, ...]) -> dict[str, str]:
    """What the function has beside Lambda's own variables."""
    import os

    ours = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
    for text in given:
        variable, equals, value = text.partition("=")
        if not equals and variable not in os.environ:
            raise click.UsageError(f"--env {text}: the environment here has no {variable}")
        ours[variable] = value if equals else os.environ[variable]
    return ours
