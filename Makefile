# One command each. Uses the Python of the active environment; override with PYTHON=...
PYTHON ?= python
C_FILES = $(wildcard csrc/*.c csrc/*.h csrc/redis_module/*.c csrc/redis_module/*.h tests/core/*.c tests/fuzz/*.c tests/fuzz/*.h bench/*.c bench/paper/*.c)
FUZZ_SECONDS ?= 60
COMMANDS ?= 1000000

MINUTES ?= 10
S3_FAULTS ?= 10000

.PHONY: dev test check check-style check-types check-c check-spelling asan coverage fuzz fuzz-module soak soak-runs soak-s3 soak-lambda bench bench-check bench-accept clean
.PHONY: wheels test-wheels test-arm test-cpus release

dev: ## install for development; again after touching csrc/ or pyx/
	$(PYTHON) -m pip install --editable '.[dev]'

test: ## all tests against the installed package
	$(PYTHON) -m pytest

check: check-style check-types check-c check-spelling ## all of these; the pre-commit hooks are the same

check-style: ## ruff
	ruff check .
	ruff format --check .

check-types: ## mypy, and the stubs against the installed compiled module
	mypy
	MYPYPATH=. $(PYTHON) -P -m mypy.stubtest cirrus_fast._kernels --concise --mypy-config-file pyproject.toml --allowlist tests/typing/stubtest_allowlist.txt --ignore-unused-allowlist

check-c: ## clang-format, and the compiler's warnings as errors
	clang-format --dry-run -Werror $(C_FILES)
	set -e; for file in csrc/*.c csrc/redis_module/*.c tests/core/*.c tests/fuzz/*.c; do $${CC:-cc} -std=c11 -O3 -ffp-contract=off -Icsrc -DCIRRUS_VERSION='"0"' -Wall -Wextra -Wconversion -Werror -c $$file -o /dev/null; done

check-spelling: ## codespell
	codespell README.md CHANGELOG.md docs csrc pyx cirrus_fast tests/unit tests/property tests/integration tests/typing tests/soak bench

asan: ## the tests with the core under AddressSanitizer and UBSan, in an environment of its own
	PYTHON=$(PYTHON) tests/run_sanitized.sh

coverage: ## which lines of csrc/ the tests run, in the active environment
	PYTHON=$(PYTHON) tests/run_coverage.sh

fuzz: ## each target of tests/fuzz/targets.txt for FUZZ_SECONDS
	FUZZ_SECONDS=$(FUZZ_SECONDS) tests/fuzz/run.sh

fuzz-module: ## a million random commands for the module of Redis, in a real server
	$(PYTHON) tests/soak/module_commands.py --commands $(COMMANDS)

soak: soak-runs soak-s3 soak-lambda ## runs with random faults

soak-runs: ## for MINUTES: kills, hangs, timeouts, Ctrl-C, full disks, resumes
	$(PYTHON) tests/soak/soak.py --minutes $(MINUTES)

soak-s3: ## until S3_FAULTS requests have failed: refusals, cuts, stalls, short and damaged bodies
	$(PYTHON) tests/soak/s3_soak.py --faults $(S3_FAULTS)

soak-lambda: ## for MINUTES: sandboxes killed, refused, out of time, answers lost, S3 and Redis failing
	$(PYTHON) tests/soak/lambda_soak.py --minutes $(MINUTES)

bench: ## measure beside every peer, and write bench/RESULTS.md (docs/benchmarks.md)
	$(PYTHON) -m bench

bench-check: ## count the kernels' instructions; fails where there are more than committed
	$(PYTHON) -m bench.instructions

bench-accept: ## count them, and make these the committed ones
	$(PYTHON) -m bench.instructions --accept

wheels: ## the source archive and a wheel for each architecture, into dist/
	$(PYTHON) .ci/wheels.py

test-wheels: ## the suite against dist/, on each CPython from 3.11 and with each kernel table
	PYTHON=$(PYTHON) tests/wheels/run_interpreters.sh

test-arm: ## kernels, parsers and a training run of dist/ on an emulated ARM
	PYTHON=$(PYTHON) tests/wheels/run_emulated.sh neoverse-n1

test-cpus: ## the same on emulated x86-64 without AVX-512, and without AVX
	PYTHON=$(PYTHON) tests/wheels/run_emulated.sh Haswell Nehalem

release: ## all that a release publishes, into dist/, from a clean tree at its tag
	$(PYTHON) .ci/release.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache cirrus_fast/*.so
