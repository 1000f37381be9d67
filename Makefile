# One command each. Uses the Python of the active environment; override with PYTHON=...
PYTHON ?= python
C_FILES = $(wildcard csrc/*.c csrc/*.h tests/core/*.c tests/fuzz/*.c tests/fuzz/*.h bench/*.c)
FUZZ_SECONDS ?= 60

.PHONY: dev test check asan coverage fuzz bench bench-check bench-accept clean

dev: ## install for development; again after touching csrc/ or pyx/
	$(PYTHON) -m pip install --editable '.[dev]'

test: ## all tests against the installed package
	$(PYTHON) -m pytest

check: ## style, types, warnings, spelling
	ruff check .
	ruff format --check .
	mypy
	clang-format --dry-run -Werror $(C_FILES)
	set -e; for file in csrc/*.c tests/core/*.c tests/fuzz/*.c; do $${CC:-cc} -std=c11 -O3 -ffp-contract=off -Icsrc -Wall -Wextra -Wconversion -Werror -c $$file -o /dev/null; done
	codespell README.md CHANGELOG.md docs csrc pyx cirrus_fast tests/unit tests/property tests/integration bench

asan: ## the tests with the core under AddressSanitizer and UBSan, in an environment of its own
	PYTHON=$(PYTHON) tests/run_sanitized.sh

coverage: ## which lines of csrc/ the tests run, in the active environment
	PYTHON=$(PYTHON) tests/run_coverage.sh

fuzz: ## each target of tests/fuzz/targets.txt for FUZZ_SECONDS
	FUZZ_SECONDS=$(FUZZ_SECONDS) tests/fuzz/run.sh

bench: ## measure beside every peer, and write bench/RESULTS.md (docs/benchmarks.md)
	$(PYTHON) -m bench

bench-check: ## count the kernels' instructions; fails where there are more than committed
	$(PYTHON) -m bench.instructions

bench-accept: ## count them, and make these the committed ones
	$(PYTHON) -m bench.instructions --accept

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache cirrus_fast/*.so
