"""The command ``cirrus-fast``.

Importing this is quick: it needs click alone, and a command's module loads when the command is
used. Results go to standard output; progress, notes and errors to standard error, an error in one
line. Exit codes: 0, 1 for an error, 2 for a command line that cannot be understood, 130 after
Ctrl-C.
"""

from __future__ import annotations

import difflib
import sys
import traceback
from importlib import import_module
from typing import IO, Any, NoReturn

import click

from cirrus_fast import __version__
from cirrus_fast.errors import CirrusFastError

PROGRAM = "cirrus-fast"
INTERRUPTED = 130

# Command -> the module of this package that has it, and its line in the list of commands. In the
# order of a first session.
COMMANDS = {
    "demo": ("demo", "Show the whole path on made-up data, in seconds."),
    "generate": ("datasets", "Write made-up click rows as LibSVM text."),
    "load": ("datasets", "Turn LibSVM text into a data set."),
    "load-criteo": ("datasets", "Turn rows of Criteo's click logs into a data set."),
    "normalize": ("datasets", "Make a data set with scaled columns."),
    "info": ("inspection", "Show what a data set is."),
    "head": ("inspection", "Show the first rows of a data set."),
    "verify": ("inspection", "Check a data set for damage."),
    "export": ("datasets", "Write a data set as LibSVM text."),
    "ls": ("inspection", "List the data sets under the storage root."),
    "rm": ("inspection", "Delete data sets."),
    "train": ("models", "Train a model."),
    "evaluate": ("models", "Measure a model on labelled rows."),
    "predict": ("models", "Score rows with a model."),
    "grid": ("grid", "Train models for combinations of some options' values."),
    "redis": ("redis", "Start a Redis server on this machine, and stop it with Ctrl-C."),
    "layer": ("layer", "Build the layer that AWS Lambda runs workers with."),
    "deploy": ("deploy", "Put the workers' function on AWS Lambda, or bring it up to date."),
    "doctor": ("deploy", "Look at a deployment from outside and from inside the function."),
    "undeploy": ("deploy", "Take away what deploy made, told by its tags, and nothing else."),
    "cost": ("cost", "Estimate what a run on AWS Lambda costs, and which worker size is best."),
    "local-lambda": ("local_lambda", "Serve a function as AWS Lambda does, on this machine."),
    "status": ("runs", "Show how far a run is that another process supervises."),
    "logs": ("runs", "Show what a run's workers on AWS Lambda have logged."),
    "attach": ("runs", "Go on with a run whose supervisor died."),
    "stop": ("runs", "End a run that another process supervises."),
}


class CommandError(click.ClickException):
    """An error in one line: ``cirrus-fast: error: ...``"""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"{PROGRAM}: error: {self.format_message()}", file=file, err=file is None)


class WrongUsage(CommandError):
    """The same, for a command line that cannot be understood."""

    exit_code = 2

    @classmethod
    def of(cls, error: click.UsageError) -> WrongUsage:
        """click's own error, which it would show in several lines."""
        text = " ".join(error.format_message().split()).rstrip(".")
        help_of = error.ctx.command_path if error.ctx is not None else PROGRAM
        return cls(f"{text} (see {help_of} --help)")


# `cirrus-fast` alone shows the help; an error of its own since click 8.2.
_SHOWS_HELP: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())


class Interrupted(Exception):
    """Ctrl-C, after what there is was saved and shown."""


class Root(click.Group):
    """The group of commands: loads them late, suggests the nearest, turns errors into lines."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"cirrus_fast.cli.{COMMANDS[cmd_name][0]}")
        found: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
            raise click.UsageError(f"No such command '{name}': {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        # From the table, so that help loads no command.
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            if isinstance(error, _SHOWS_HELP):
                raise
            raise WrongUsage.of(error) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # so that a reader that went away is noticed here
            return result
        except click.UsageError as error:
            raise WrongUsage.of(error) from error
        except BrokenPipeError:
            raise  # click ends quietly
        except (CirrusFastError, OSError, MemoryError) as error:
            if ctx.meta.get("debug"):
                traceback.print_exc()
            raise CommandError(_one_line(error)) from error
        except (KeyboardInterrupt, Interrupted):
            click.echo(f"{PROGRAM}: interrupted", err=True)
            ctx.exit(INTERRUPTED)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"out of memory ({error})" if str(error) else "out of memory"
    return " ".join(str(error).split()) or type(error).__name__


def _set_storage(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is None or ctx.resilient_parsing:
        return
    from cirrus_fast.data.storage import configure

    try:
        configure(storage=value)
    except CirrusFastError as error:
        raise CommandError(_one_line(error)) from error
    ctx.call_on_close(lambda: configure(storage=None))


def _set_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["debug"] = True


def global_options() -> list[click.Parameter]:
    """Options that stand before a command or after it."""
    storage = click.Option(
        ["--storage"],
        metavar="ROOT",
        expose_value=False,
        callback=_set_storage,
        help="Folder or s3:// prefix of the data sets given by bare name. "
        "[default: $CIRRUS_FAST_STORAGE, else ./cirrus_data]",
    )
    debug = click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        callback=_set_debug,
        help="Show the traceback of an error.",
    )
    return [storage, debug]


@click.group(
    cls=Root,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # --learning_rate, as the option is called in Python, is --learning-rate too.
        "token_normalize_func": lambda name: name.replace("_", "-"),
        "max_content_width": 100,
    },
)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Sparse logistic regression on short-lived workers.

    A first look: cirrus-fast demo. A data set is given by bare name, path or file:// URI.
    """
    from cirrus_fast.cli.output import show_notices

    ctx.with_resource(show_notices())


cli.params[:0] = global_options()


def main() -> NoReturn:
    """What the installed command runs."""
    cli(prog_name=PROGRAM)
    raise AssertionError("click exits by itself")
