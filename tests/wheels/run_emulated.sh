#!/usr/bin/env bash
# run_emulated.sh CPU... [-- PYTEST ARGUMENT...]: the wheel of dist/ on CPUs that this machine has
# not, under qemu's user mode, with Debian's Python 3.11. Checks which kernels are chosen, that a
# training run has the same rows and bytes as here and nearly the same loss, and runs the kernels'
# and the parsers' tests on each table of that CPU.
#
#   neoverse-n1   Graviton 2, on which Lambda's arm64 runs        neon, scalar
#   Haswell       AVX2 without AVX-512                            avx2, scalar
#   Nehalem       SSE4.2 and no AVX, the least that NumPy takes   scalar
#
# Needs apt, qemu-user-static and network; no root. With gcc-aarch64-linux-gnu, ARM's kernels are
# fuzzed against scalar too. Everything is below build/emulated/.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
# shellcheck source=tests/wheels/install.sh
. tests/wheels/install.sh
here=$PWD/build/emulated
mkdir -p "$here"
cpus=() arguments=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do cpus+=("$1"); shift; done
[ $# -eq 0 ] || arguments=("${@:2}")

# What runs other instructions on another CPU: the kernels, the parsers and what is made right of
# them. The rest is Python, which make test-wheels tests; here it would take hours.
tests=(tests/conformance)
for name in block_reference blocks checks columns criteo dispatch evaluation hot kernel_safety \
    libsvm localize logistic minibatches number optimizer train; do
    tests+=("tests/unit/test_$name.py")
done
for name in blocks_property columns_properties criteo_properties libsvm_properties; do
    tests+=("tests/property/test_$name.py")
done
for cpu in host "${cpus[@]}"; do
    debian=amd64 architecture=x86_64 features=""
    case $cpu in
        host) expected='' ;;
        neoverse-n1) debian=arm64 architecture=aarch64 expected='neon scalar' ;;
        Haswell) expected='avx2 scalar' features=-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid ;;
        Nehalem) expected='scalar' ;;
        *) echo "unknown CPU $cpu" >&2; exit 2 ;;
    esac
    echo "== $cpu"
    emulate=""
    [ "$cpu" = host ] || emulate="qemu-$architecture-static -cpu $cpu$features"
    EMULATE=$emulate tests/wheels/debian_python.sh "$here/$cpu" "$debian" bookworm 3.11
    install_for "$here/$cpu/site" "$architecture" 3.11 \
        pytest hypothesis scipy scikit-learn
    there=(env "PYTHONPATH=$here/$cpu/site" "PYTHONPYCACHEPREFIX=$here/$cpu/site/.bytecode"
        "$here/$cpu/python" -P)
    "${there[@]}" tests/wheels/train_a_little.py > "$here/$cpu.json"
    "$python" - "$expected" "$here/host.json" "$here/$cpu.json" << 'PYTHON'
import json, sys
from pathlib import Path

host, found = (json.loads(Path(name).read_text()) for name in sys.argv[2:])
tables = found.pop("implementations")
print("kernels:", *tables)
assert not sys.argv[1] or tables == sys.argv[1].split(), f"expected {sys.argv[1]}"
for name, facts in found.items():
    print(name, facts)
    difference = facts.pop("loss") - host[name].pop("loss")
    assert facts == host[name], f"the host has {host[name]}"
    assert abs(difference) < 1e-5, f"the host's loss differs by {difference}"
PYTHON
    [ "$cpu" = host ] && continue
    # The core alone, against scalar: as many inputs in a minute as Python's tests have in hours.
    if [ "$debian" = arm64 ] && command -v aarch64-linux-gnu-gcc > /dev/null; then
        for target in libsvm block train; do
            [ $target = libsvm ] && starts=(tests/fuzz/corpus_libsvm) || starts=()
            aarch64-linux-gnu-gcc -static -std=c11 -O2 -ffp-contract=off -Icsrc -Itests/fuzz \
                csrc/*.c tests/fuzz/driver.c "tests/fuzz/fuzz_$target.c" -lm -o "$here/fuzz_$target"
            echo "-- fuzz $target: $($emulate "$here/fuzz_$target" 20000 1 "${starts[@]}")"
        done
    fi
    for table in $expected; do
        echo "-- $table"
        CIRRUS_FAST_FORCE_IMPL=$table EXPECTED_IMPLEMENTATIONS=$expected \
            "${there[@]}" -m pytest -p no:cacheprovider -q --hypothesis-profile=ci "${tests[@]}" "${arguments[@]}"
    done
done
