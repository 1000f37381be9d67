#!/usr/bin/env bash
# Which lines of csrc/ the tests run: the suite with a build for gcov, once for each kernel table.
# Prints a line a file; the sources with their counts are left in build/coverage/lines/.
#
# Uses the active environment, which must have what the tests need. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$PWD/build/coverage python=${PYTHON:-python3}
rm -rf "$folder"
mkdir -p "$folder/source" "$folder/lines"
cp -r csrc pyx cirrus_fast setup.py pyproject.toml README.md LICENSE "$folder/source"
find "$folder/source" \( -name '*.so' -o -name __pycache__ \) -prune -exec rm -rf {} +
cd "$folder/source"
CIRRUS_FAST_COVERAGE=1 "$python" setup.py -q build_ext --inplace
export PYTHONPATH=$PWD
tables=$("$python" -P -c 'from cirrus_fast import _kernels; print(*_kernels.implementations())')
cd ../../..
for table in $tables; do
    # Tests that kill a process may cut its counters short, and gcov's complaint fails others.
    CIRRUS_FAST_FORCE_IMPL=$table "$python" -P -m pytest -p no:cacheprovider -q "$@" ||
        echo "some tests failed; counting goes on" >&2
done

# gcov names a file, then its lines; each source is looked up through its own object.
cd "$folder/source"
for object in build/temp.*/csrc/*.o; do
    name=csrc/$(basename "$object" .o).c
    gcov "$object" 2> /dev/null | grep -A 1 "^File '$name'" | sed -n 's/^Lines executed://p' |
        sed "s|^|$name: |"
    mv ./*.gcov "$folder/lines"
done | tee "$folder/lines/summary.txt"
