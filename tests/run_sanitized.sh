#!/usr/bin/env bash
# The whole suite with the core under AddressSanitizer and UBSan under the best kernel table of this
# CPU, what reaches the kernels under each other one, then the plain C tests and a short replay of
# the fuzz targets with leak checking on.
#
# Needs Python and gcc. Everything is built below build/asan/, from a copy of the sources, so that
# no object of another build is taken for one of these. Arguments go to pytest, for every table.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$PWD/build/asan python=${PYTHON:-python3}
rm -rf "$folder/source"
mkdir -p "$folder/source" "$folder/core"
cp -r csrc pyx cirrus_fast setup.py pyproject.toml README.md LICENSE "$folder/source"
find "$folder/source" \( -name '*.so' -o -name __pycache__ \) -prune -exec rm -rf {} +

[ -x "$folder/venv/bin/python" ] || "$python" -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
# With psutil, loky ends processes itself; it would start pgrep, which hangs under the runtime.
"${pip[@]}" "$folder/source[test]" psutil
CIRRUS_FAST_SANITIZE=1 "${pip[@]}" --no-deps --force-reinstall "$folder/source"

# Python itself is not instrumented, so the runtime comes first; the C++ library beside it, because
# the runtime looks for its exceptions once, at the start. Small objects come from malloc, which the
# sanitizer watches, and not from Python's pools, which it does not. The interpreter leaks by
# design: leaks are looked for in the C programs below.
preload="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so.6)"
# AddressSanitizer's reports go to files; UndefinedBehaviorSanitizer says only on standard error what
# it dies of, so pytest leaves that alone.
options=detect_leaks=0:quarantine_size_mb=64:print_stacktrace=1:log_path=$folder/report
sanitized() {
    rm -f "$folder"/report.*
    env LD_PRELOAD="$preload" PYTHONMALLOC=malloc ASAN_OPTIONS="$options" UBSAN_OPTIONS="$options" \
        "$@" && return
    for report in "$folder"/report.*; do [ ! -e "$report" ] || cat "$report" >&2; done
    return 1
}
tables=$(sanitized "$folder/venv/bin/python" -I - <<'PYTHON'
from pathlib import Path
from cirrus_fast import _kernels

binary = Path(_kernels.__file__).read_bytes()
assert b"__asan_report_load" in binary and b"__ubsan_handle" in binary, "not a sanitizer build"
print(*_kernels.implementations())
PYTHON
)
best=$(cut -d' ' -f1 <<< "$tables")
of_kernels=(tests/unit tests/property tests/conformance tests/core
    tests/integration/test_{training,training_on_text,scoring_text,checkpoints}.py)
for table in $tables; do
    tests=("$@")
    [ "$#" -gt 0 ] || [ "$table" = "$best" ] || tests=("${of_kernels[@]}")
    echo "== pytest, sanitized, $table kernels"
    CIRRUS_FAST_FORCE_IMPL=$table sanitized "$folder/venv/bin/pytest" -p no:cacheprovider -q \
        --capture=sys \
        "${tests[@]}"
done

echo "== the C tests, with leak checking"
sanitize=(-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all)
flags=(-std=c11 -O1 -g -ffp-contract=off -Icsrc)
# Leaks are found by ptrace, which some containers refuse.
printf 'int main(void) { return 0; }\n' | gcc "${sanitize[@]}" -x c - -o "$folder/core/empty"
export ASAN_OPTIONS=detect_leaks=1
if ! "$folder/core/empty" > /dev/null 2>&1; then
    echo "leak checking does not work here (no ptrace?): going on without" >&2
    export ASAN_OPTIONS=detect_leaks=0
fi
for test in tests/core/*.c; do
    program=$folder/core/$(basename "$test" .c)
    gcc "${flags[@]}" "${sanitize[@]}" "$test" csrc/*.c -lm -o "$program"
    echo "$(basename "$program"): $("$program")"
done
FUZZ_ENGINE=driver FUZZ_EXECUTIONS=${FUZZ_EXECUTIONS:-3000} tests/fuzz/run.sh
