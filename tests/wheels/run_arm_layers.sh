#!/usr/bin/env bash
# run_arm_layers.sh: trains from the arm64 layers of dist/ (make release) on an emulated Neoverse N1,
# where Debian has that Python (3.12 it never had; redis wants a later 3.11 than bookworm's).
#
# Needs apt, qemu-user-static and network; no root. Everything is below build/emulated/.
set -euo pipefail
cd "$(dirname "$0")/../.."
for pair in trixie:3.13 sid:3.14; do
    suite=${pair%:*} version=${pair#*:}
    folder=$PWD/build/emulated/arm64-$version
    layers=(dist/cirrus_fast-*-layer-python"$version"-arm64.zip)
    [ -e "${layers[0]}" ] || { echo "no layer for $version in dist/: make release" >&2; exit 1; }
    EMULATE="qemu-aarch64-static -cpu neoverse-n1" \
        tests/wheels/debian_python.sh "$folder" arm64 "$suite" "$version"
    rm -rf "$folder/layer"
    "${PYTHON:-python3}" -m zipfile -e "${layers[0]}" "$folder/layer"
    "$folder/python" -I -S tests/wheels/train_from_layer.py "$folder/layer" | tee "$folder/found.json"
    grep -q '"impl": "neon"' "$folder/found.json"
    grep -q '"cannot be imported": \[\], "elsewhere": \[\], "compiled": true' "$folder/found.json"
done
