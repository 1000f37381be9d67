#!/usr/bin/env bash
# run_interpreters.sh [X.Y...] [-- PYTEST ARGUMENT...]: the whole suite against the wheel of dist/, on
# each CPython named, by default 3.11 to 3.15. The first runs once more for each kernel table of this
# CPU. A python that is not on the path is unpacked from Debian's packages (sid), which needs apt.
#
# Then the source archive: built by gcc and by clang, where there is one, and the kernels' tests run.
# Needs network. Everything is below build/interpreters/.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
# shellcheck source=tests/wheels/install.sh
. tests/wheels/install.sh
here=$PWD/build/interpreters
mkdir -p "$here"
versions=() arguments=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do versions+=("$1"); shift; done
[ $# -eq 0 ] || arguments=("${@:2}")
[ ${#versions[@]} -gt 0 ] || versions=(3.11 3.12 3.13 3.14 3.15)
machine=$(uname -m)
extras=(pip pytest pytest-benchmark hypothesis scipy scikit-learn loky matplotlib 'moto[s3,server]>=5')

passed=()
check() { # NAME COMMAND...: says what ran in the end
    echo "== $1"
    "${@:2}"
    passed+=("$1")
}

first=1
for version in "${versions[@]}"; do
    folder=$here/$version
    found=$(command -v "python$version" || true)
    if [ -z "$found" ] || ! "$found" -c '' 2> /dev/null; then
        tests/wheels/debian_python.sh "$folder" "${DEBIAN_ARCHITECTURE:-amd64}" sid "$version"
        found=$folder/python
    fi
    install_for "$folder/site" "$machine" "$version" "${extras[@]}"
    there=(env "PYTHONPATH=$folder/site" "PYTHONPYCACHEPREFIX=$folder/site/.bytecode" "$found" -P)
    name="$("$found" -c 'import sys; print(sys.version.split()[0])')"
    suite=("${there[@]}" -m pytest -p no:cacheprovider -q "${arguments[@]}")
    check "$name" "${suite[@]}"
    [ "$first" = 1 ] || continue
    first=0
    for table in $("${there[@]}" -c 'from cirrus_fast import _kernels; print(*_kernels.implementations()[1:])'); do
        check "$name, $table kernels" env "CIRRUS_FAST_FORCE_IMPL=$table" "${suite[@]}"
    done
done

for compiler in gcc clang; do
    command -v "$compiler" > /dev/null || continue
    folder=$here/source-$compiler
    rm -rf "$folder"
    "$python" -m venv "$folder"
    env CC="$compiler" LDSHARED="$compiler -shared" "$folder/bin/python" -m pip install -qq \
        dist/cirrus_fast-*.tar.gz pytest hypothesis scipy scikit-learn
    check "source, $("$compiler" --version | head -1)" "$folder/bin/python" -P -m pytest \
        -p no:cacheprovider -q tests/unit tests/conformance tests/wheels "${arguments[@]}"
done
printf 'passed: %s\n' "${passed[@]}"
