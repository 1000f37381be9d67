"""Builds the compiled module, cirrus_fast._kernels, and beside it cirrus.so, the module for Redis,
which knows no Python; everything else is in pyproject.toml.

Environment flags: CIRRUS_FAST_DEBUG=1 (no optimisation, assertions on), CIRRUS_FAST_SANITIZE=1
(AddressSanitizer and UBSan), CIRRUS_FAST_COVERAGE=1 (gcov).
"""

import os
import re
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FLAGS = ("DEBUG", "SANITIZE", "COVERAGE")


def flag(name: str) -> bool:
    return os.environ.get(f"CIRRUS_FAST_{name}", "0") not in ("", "0")


def sources(pattern: str) -> list[str]:
    return sorted(str(path) for path in Path().glob(pattern))


# No -march: kernels for newer CPUs carry their own target attribute and are chosen at run time.
# No -ffast-math: NaN and infinity mean something here; contraction off so that every build and
# every kernel rounds alike.
compile_args = ["-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden"]
link_args: list[str] = []
if flag("DEBUG"):
    compile_args += ["-O0", "-g", "-UNDEBUG"]
if flag("SANITIZE"):
    sanitize = ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
    compile_args += ["-O1", "-g", "-fno-omit-frame-pointer", "-UNDEBUG", *sanitize]
    link_args += sanitize
if flag("COVERAGE"):
    compile_args += ["-O0", "-g", "--coverage"]
    link_args += ["--coverage"]


REDIS_MODULE = "cirrus_fast.cirrus"


class BuildKernels(build_ext):
    """Puts a plain build into the source tree as well: Python started there, as people do after
    `pip install .`, imports the tree's cirrus_fast and must find the kernels in it."""

    def get_ext_filename(self, fullname: str) -> str:
        """Redis's module is a library by a plain name, not one of Python's."""
        if fullname in (REDIS_MODULE, REDIS_MODULE.rsplit(".", 1)[1]):
            return f"{fullname.replace('.', '/')}.so"
        return str(super().get_ext_filename(fullname))

    def build_extension(self, extension: Extension) -> None:
        """What Cython generates calls kernels, and does no work of its own: it is compiled to be
        small, for it would be half of the module, and of the time that compiling takes."""
        if not any(map(flag, FLAGS)):
            generated = [name for name in extension.sources if not name.startswith("csrc")]
            extension.sources = [name for name in extension.sources if name not in generated]
            extension.extra_objects += self.compiler.compile(
                generated,
                output_dir=self.build_temp,
                macros=extension.define_macros,
                include_dirs=extension.include_dirs,
                extra_postargs=[*extension.extra_compile_args, "-Os"],
                depends=extension.depends,
            )
        super().build_extension(extension)

    def run(self) -> None:
        super().run()
        if not (self.inplace or any(map(flag, FLAGS))):
            self.copy_extensions_to_source()


kernels = Extension(
    "cirrus_fast._kernels",
    sources=["pyx/_kernels.pyx", *sources("csrc/*.c")],
    include_dirs=["csrc"],
    depends=sources("csrc/*.h") + sources("pyx/*"),
    define_macros=[("Py_LIMITED_API", "0x030B0000"), ("CYTHON_LIMITED_API", "1")],
    extra_compile_args=compile_args,
    extra_link_args=link_args,
    py_limited_api=True,
)

version = re.search('"(.+)"', Path("cirrus_fast/_version.py").read_text())
assert version
redis_module = Extension(
    REDIS_MODULE,
    sources=[
        *sources("csrc/redis_module/*.c"),
        *(f"csrc/cf_{name}.c" for name in ("id_set", "optimizer", "status", "step")),
    ],
    include_dirs=["csrc"],
    depends=sources("csrc/*.h") + sources("csrc/redis_module/*.h"),
    define_macros=[("CIRRUS_VERSION", f'"{version[1]}"')],
    # The server is told to load it: its own allocator and loader see no sanitizer.
    extra_compile_args=[flag for flag in compile_args if "sanitize" not in flag],
    extra_link_args=[flag for flag in link_args if "sanitize" not in flag],
)

setup(
    cmdclass={"build_ext": BuildKernels},
    ext_modules=[
        *cythonize([kernels], build_dir="build/cython", language_level=3),
        redis_module,
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
