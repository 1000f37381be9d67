"""Everything that a release publishes, into dist/: source archive, wheels, layers, SHA256SUMS.

    python .ci/release.py [--pythons 3.11 3.12 3.13 3.14]

Only from a clean tree at the tag v<version>. Each layer of this machine's architecture is unpacked
and trains with nothing else on the path; a layer whose Python is not on the path (to compile its
modules) is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
ARCHES = {"x86_64": "x86_64", "arm64": "aarch64"}  # Lambda's name -> the kernel's
# What a layer may weigh, far below what Lambda takes: cold starts unpack it.
MOST_ZIPPED, MOST_UNPACKED = 15_000_000, 50_000_000


def output_of(*command: str | Path, where: Path = ROOT) -> str:
    return subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True, cwd=where
    ).stdout.strip()


def released_version() -> str:
    """The package's, after checking that the tree is the tag of that name."""
    text = (ROOT / "cirrus_fast/_version.py").read_text()
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    assert found is not None
    version = found[1]
    changes = output_of("git", "status", "--porcelain")
    if changes:
        sys.exit(f"the tree has changes; commit or remove them:\n{changes}")
    tags = output_of("git", "tag", "--points-at", "HEAD").split()
    if f"v{version}" not in tags:
        sys.exit(
            f"version {version} is released from the tag v{version}, and here is "
            f"{', '.join(tags) or 'no tag'}"
        )
    return version


def build_layers(pythons: list[str], version: str) -> None:
    """With the released package, installed in an environment of its own."""
    with tempfile.TemporaryDirectory(prefix="cirrus_fast_release_") as name:
        folder = Path(name)
        output_of(sys.executable, "-m", "venv", folder / "venv")
        python = folder / "venv/bin/python"
        wanted = f"cirrus-fast=={version}"
        output_of(python, "-m", "pip", "install", "--quiet", "--find-links", DIST, wanted)
        for runtime in pythons:
            for arch in ARCHES:
                target = DIST / f"cirrus_fast-{version}-layer-python{runtime}-{arch}.zip"
                command = [python, "-P", "-m", "cirrus_fast", "layer", "build", "--json"]
                command += ["--find-links", DIST, "--python", runtime, "--arch", arch]
                layer = json.loads(output_of(*command, "--output", target, where=folder))
                for what, most in (("zipped", MOST_ZIPPED), ("unpacked", MOST_UNPACKED)):
                    if layer[what] > most:
                        sys.exit(f"{target.name} has {layer[what]:,} bytes {what}, over {most:,}")
                print(f"{target.name}: {layer['zipped']:,} zipped, {layer['unpacked']:,} unpacked")
                if ARCHES[arch] == platform.machine():
                    try_layer(target, shutil.which(f"python{runtime}") or sys.executable)


def try_layer(layer: Path, python: str) -> None:
    with tempfile.TemporaryDirectory(prefix="cirrus_fast_layer_") as folder:
        with zipfile.ZipFile(layer) as archive:
            archive.extractall(folder)
        script = ROOT / "tests/wheels/train_from_layer.py"
        found = json.loads(output_of(python, "-I", "-S", script, folder, where=Path(folder)))
    print(f"  trains: {found}")
    if found["elsewhere"] or found["cannot be imported"] or not found["compiled"]:
        sys.exit(f"{layer.name} is not whole")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pythons", nargs="+", default=["3.11", "3.12", "3.13", "3.14"])
    arguments = parser.parse_args()
    version = released_version()
    shutil.rmtree(DIST, ignore_errors=True)
    subprocess.run([sys.executable, ROOT / ".ci/wheels.py", "--twice"], check=True)
    build_layers(arguments.pythons, version)
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(DIST.iterdir())
    ]
    (DIST / "SHA256SUMS").write_text("".join(sums))
    print("".join(sums), end="")


if __name__ == "__main__":
    main()
