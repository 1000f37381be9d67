#!/usr/bin/env bash
# Every fuzz target of targets.txt for FUZZ_SECONDS, or FUZZ_EXECUTIONS, under ASan and UBSan.
#
#   FUZZ_TARGETS="block number"   only these
#   FUZZ_SEED=7                   other mutations
#   FUZZ_ENGINE=driver            gcc and driver.c even where clang has libFuzzer
#
# Everything goes below build/fuzz/: programs, what libFuzzer learnt, one log a target, and in
# found/ the inputs of findings. `build/fuzz/fuzz_NAME FILE` (libFuzzer) or
# `build/fuzz/fuzz_NAME 0 1 FILE` (driver) runs one again.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${FUZZ_SECONDS:-60} executions=${FUZZ_EXECUTIONS:-} seed=${FUZZ_SEED:-1}
out=build/fuzz
found=$out/found
mkdir -p "$out/core" "$found"
sanitize=(-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all)
flags=(-std=c11 -O2 -g -fno-omit-frame-pointer -ffp-contract=off -Wall -Icsrc -Itests/fuzz)

engine=${FUZZ_ENGINE:-}
if [ -z "$engine" ]; then
    engine=driver
    probe='#include <stddef.h>
int LLVMFuzzerTestOneInput(const unsigned char *d, size_t n) { return d == NULL && n; }'
    if command -v clang > /dev/null && printf '%s\n' "$probe" |
        clang -fsanitize=fuzzer,address,undefined -x c - -o "$out/probe" 2> /dev/null; then
        engine=libfuzzer
    fi
fi
if [ "$engine" = libfuzzer ]; then
    compiler=clang core_flags=(-fsanitize=fuzzer-no-link) link_flags=(-fsanitize=fuzzer)
    # Adding 0 to NULL is allowed from C23 on; the rest of the group stays.
    sanitize+=(-fno-sanitize=pointer-overflow)
else
    compiler=${CC:-cc} core_flags=() link_flags=()
fi
echo "fuzzing with $engine ($compiler)"

objects=()
for file in csrc/*.c; do
    object=$out/core/$(basename "$file" .c).o
    "$compiler" "${flags[@]}" "${sanitize[@]}" "${core_flags[@]}" -c "$file" -o "$object"
    objects+=("$object")
done

# Leaks are only looked for where ptrace is allowed; a program says so at its end.
export ASAN_OPTIONS=${ASAN_OPTIONS:-quarantine_size_mb=16} FUZZ_FOUND=$found
failed=()
while read -r name starts; do
    case $name in '' | '#'*) continue ;; esac
    case " ${FUZZ_TARGETS:-$name} " in *" $name "*) ;; *) continue ;; esac
    source=tests/fuzz/fuzz_$name.c program=$out/fuzz_$name log=$out/$name.log
    corpora=()
    for start in $starts; do corpora+=("tests/fuzz/$start"); done
    echo "== $name"
    if [ "$engine" = libfuzzer ]; then
        # Seeds come from the driver, which needs no sanitizer for that.
        learnt=$out/learnt/$name
        mkdir -p "$learnt" "$out/seeds/$name"
        "$compiler" "${flags[@]}" "$source" tests/fuzz/driver.c csrc/*.c -lm -o "$out/seeds/make"
        "$out/seeds/make" --write-seeds "$out/seeds/$name"
        "$compiler" "${flags[@]}" "${sanitize[@]}" "${link_flags[@]}" "$source" "${objects[@]}" \
            -lm -o "$program"
        limit=(-max_total_time="$seconds")
        [ -z "$executions" ] || limit=(-runs="$executions")
        command=("$program" "${limit[@]}" -seed="$seed" -max_len=16384 -timeout=60
            -artifact_prefix="$found/fuzz_$name-" -print_final_stats=1
            "$learnt" "$out/seeds/$name" "${corpora[@]}")
    else
        "$compiler" "${flags[@]}" "${sanitize[@]}" "$source" tests/fuzz/driver.c "${objects[@]}" \
            -lm -o "$program"
        command=("$program" "${executions:-${seconds}s}" "$seed" "${corpora[@]}")
    fi
    if "${command[@]}" > "$log" 2>&1; then
        grep -E 'exec/s$|number_of_executed_units|average_exec_per_sec' "$log"
    else
        grep -vE "^#[0-9]+" "$log" | tail -n 60 || true
        failed+=("$name")
    fi
done < tests/fuzz/targets.txt

if [ ${#failed[@]} -gt 0 ]; then
    echo "found something in: ${failed[*]}; the inputs are in $found" >&2
    exit 1
fi
