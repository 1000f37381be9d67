"""The command layer."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from cirrus_fast.cli import global_options, output
from cirrus_fast.cli.output import command
from cirrus_fast.errors import LayerError

if TYPE_CHECKING:
    from cirrus_fast.backend.layer import Layer


@click.group("layer")
def layer_command() -> None:
    """Build the layer that AWS Lambda runs workers with."""


layer_command.params += global_options()


@command("build")
@click.option(
    "--python",
    metavar="X.Y",
    help="Lambda's runtime, 3.11 to 3.14; by default that of the Python that runs this.",
)
@click.option(
    "--arch",
    type=click.Choice(["x86_64", "arm64"]),
    metavar="[x86_64|arm64]",
    default="x86_64",
    show_default=True,
    help="Lambda's architecture.",
)
@click.option(
    "-o",
    "--output",
    "path",
    type=click.Path(dir_okay=False),
    default="layer.zip",
    show_default=True,
    metavar="ZIP",
    help="File to write.",
)
@click.option(
    "--find-links",
    multiple=True,
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="A folder of wheels to look through as well; may be given again.",
)
@click.option("--no-index", is_flag=True, help="Take wheels from --find-links only: no network.")
@click.option(
    "--pyc/--no-pyc",
    "compile_python",
    default=True,
    help="Put byte code in, which needs that Python on this machine; without, every cold start "
    "compiles, a second or so.  [default: pyc]",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
def build_command(
    python: str | None,
    arch: str,
    path: str,
    find_links: tuple[str, ...],
    no_index: bool,
    compile_python: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Build the layer from wheels: NumPy, redis, hiredis and this package.

    What a worker does not need is left out. The same wheels and Python give the same bytes.
    """
    from cirrus_fast.backend.layer import build_layer, running_python

    output.refuse_existing(path, overwrite)
    output.check_folder(path)
    if no_index and not find_links:
        raise LayerError("--no-index leaves --find-links, and no folder is given")
    layer = build_layer(
        path,
        python=python or running_python(),
        arch=arch,
        find_links=find_links,
        no_index=no_index,
        compile_python=compile_python,
    )
    if as_json:
        output.show_json(asdict(layer))
    else:
        _show(layer)


def _show(layer: Layer) -> None:
    from cirrus_fast.backend.layer import MOST_UNPACKED, MOST_ZIPPED

    columns = {"part": "left", "version": "left"}
    columns |= dict.fromkeys(("files", "zipped", "unpacked", "byte code", "left out"), "right")
    rows = [
        (
            part.name,
            part.version,
            str(part.n_files),
            *map(output.size, (part.zipped, part.unpacked, part.bytecode, part.left_out)),
        )
        for part in layer.parts
    ]
    output.show_table(columns, rows)
    zipped, unpacked = output.size(layer.zipped), output.size(layer.unpacked)
    click.echo(
        f"\n{layer.path}: Python {layer.python} on {layer.arch}, {zipped} zipped and {unpacked} "
        f"unpacked; Lambda takes {output.size(MOST_ZIPPED)} and {output.size(MOST_UNPACKED)} with "
        f"the function.\nsha256 {layer.sha256}"
    )


layer_command.add_command(build_command)
