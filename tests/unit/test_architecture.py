"""Rules of the source tree: what may import what, and what loads when."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
from pathlib import Path

import pytest

import cirrus_fast
from cirrus_fast import _kernels

PACKAGE = Path(cirrus_fast.__file__).parent

# From the bottom up; the first prefix that fits is a module's layer. Modules import from their own
# layer and those before it. What is below everything may be imported by everything.
LAYERS = [
    ("_version", "errors", "notices", "options", "redis_module", "store_url", "store_secret"),
    ("_kernels",),
    ("data", "plots", "_reference"),
    ("runtime",),
    ("backend",),
    ("preprocessing", "export", "logistic_regression", "grid_search", "sklearn", "configuration"),
    ("cli", "demo", "__main__", "local_lambda"),
]


def layer_of(module: str) -> int:
    """Of "data.csr", say."""
    top = module.split(".")[0]
    for level, names in enumerate(LAYERS):
        if top in names:
            return level
    raise AssertionError(f"cirrus_fast.{module} is in no layer: put it into one of LAYERS")


def imports_of(path: Path) -> set[str]:
    """Modules of this package that a file imports anywhere, those for type checkers left out."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "cirrus_fast"}


SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    own = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for name in imports_of(path):
        module = name.removeprefix("cirrus_fast.")
        if module.split(".")[0] in (*cirrus_fast.__all__, "cirrus_fast", "__version__"):
            continue  # a public name of the package: checked below
        assert layer_of(module) <= layer_of(own), f"{own} imports {name}, which is above it"


@pytest.mark.parametrize("layer", ["data", "runtime", "backend"])
def test_lower_layers_do_not_import_through_the_package(layer):
    """`from cirrus_fast import X` would hide which layer X is of."""
    for path in (PACKAGE / layer).rglob("*.py"):
        for name in imports_of(path):
            assert name.removeprefix("cirrus_fast.") not in cirrus_fast.__all__, f"{path}: {name}"


LOADED = "import sys, json; import {module}; print(json.dumps(sorted(sys.modules)))"


def loaded_by(run_python, module: str) -> set[str]:
    return set(json.loads(run_python(LOADED.format(module=module))))


def test_a_worker_loads_nothing_that_it_does_not_need(run_python):
    loaded = loaded_by(run_python, "cirrus_fast.runtime.worker")
    unwanted = ["click", "rich", "matplotlib", "boto3", "botocore", "multiprocessing"]
    unwanted += ["scipy", "sklearn", "pandas", "asyncio"]
    unwanted += ["gzip", "cirrus_fast.data.text", "cirrus_fast.data.sources"]  # reads no text
    assert not loaded & set(unwanted)
    ours = {name for name in loaded if name.startswith("cirrus_fast.")}
    assert not {name for name in ours if name.startswith("cirrus_fast.backend")}
    assert not ours & {f"cirrus_fast.{name}" for name in LAYERS[-1] + LAYERS[-2]}


def test_a_worker_with_its_model_in_a_redis_loads_no_client_library(run_python):
    """Which would take a cold worker some 200 ms."""
    loaded = loaded_by(run_python, "cirrus_fast.runtime.remote")
    assert not loaded & {"redis", "hiredis", "asyncio", "ssl", "boto3"}


def test_a_function_loads_no_client_library_before_its_first_event(run_python):
    loaded = loaded_by(run_python, "cirrus_fast.runtime.handler")
    assert not loaded & {"redis", "hiredis", "asyncio", "ssl", "boto3", "botocore", "click", "rich"}
    assert not {name for name in loaded if name.startswith("cirrus_fast.backend")}
    assert "cirrus_fast.runtime.remote" in loaded


def test_the_package_alone_loads_no_numpy(run_python):
    loaded = loaded_by(run_python, "cirrus_fast")
    assert "numpy" not in loaded
    assert {n for n in loaded if n.startswith("cirrus_fast.")} == {"cirrus_fast._version"}


def test_training_loads_no_scipy_and_no_pictures(run_python):
    loaded = loaded_by(run_python, "cirrus_fast.logistic_regression")
    assert not loaded & {"scipy", "matplotlib", "sklearn", "multiprocessing", "click"}


def test_multiprocessing_is_imported_nowhere():
    """It needs a __main__ guard in the user's script."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "multiprocessing" for name in names), path


@pytest.mark.parametrize("name", cirrus_fast.__all__)
def test_every_public_name_is_there(name):
    assert getattr(cirrus_fast, name) is not None
    assert name in dir(cirrus_fast)


def test_a_name_that_is_none_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = cirrus_fast.nothing


def test_the_papers_other_name_is_the_same_class():
    assert cirrus_fast.LRegression is cirrus_fast.LogisticRegression


def test_type_checkers_see_the_public_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    shown = {
        alias.asname or alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    aliases = [node for node in block.body if isinstance(node, ast.Assign)]
    shown |= {ast.unparse(target) for node in aliases for target in node.targets}
    assert shown == set(cirrus_fast.__all__) - {"__version__"}


def test_every_module_can_be_imported():
    for path in SOURCES:
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if name != "__main__" and not name.endswith(".__main__"):
            importlib.import_module(f"cirrus_fast.{name}")


# The stub of the compiled module

STUB = ast.parse((PACKAGE / "_kernels.pyi").read_text())


def stub_names(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
    return {name: node for name, node in found.items() if not name.startswith("_")}


def public(thing: object) -> set[str]:
    return {name for name in vars(thing) if not name.startswith("_")}


def test_the_stub_names_exactly_what_the_compiled_module_has():
    assert set(stub_names(STUB.body)) == public(_kernels)


@pytest.mark.parametrize(
    "name", [node.name for node in STUB.body if isinstance(node, ast.ClassDef)]
)
def test_the_stub_names_exactly_what_a_compiled_class_has(name):
    node = stub_names(STUB.body)[name]
    assert isinstance(node, ast.ClassDef)
    assert set(stub_names(node.body)) == public(getattr(_kernels, name))


def test_the_stub_has_the_compiled_functions_arguments():
    checked = 0
    for name, node in stub_names(STUB.body).items():
        if not isinstance(node, ast.FunctionDef):
            continue
        try:
            signature = inspect.signature(getattr(_kernels, name))
        except ValueError:  # compiled without
            continue
        arguments = node.args
        expected = [a.arg for a in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]]
        assert list(signature.parameters) == expected, name
        checked += 1
    assert checked > 10


@pytest.mark.parametrize("text", _kernels.status_texts())
def test_status_texts_are_lower_case_sentences_without_a_full_stop(text):
    assert text == text.strip()
    assert not text.endswith(".")
    assert text[0].islower() or text.startswith("NUL")
