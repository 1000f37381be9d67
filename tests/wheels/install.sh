# Sourced by the scripts beside it. Puts a wheel of dist/ and what its tests need into a folder, for
# another machine or Python than the one whose pip does it.

# pip 23 takes its own Python for the other's in what a wheel requires: a newer one is needed.
#
# install_for FOLDER ARCHITECTURE X.Y [PACKAGE...]
install_for() {
    local folder=$1 architecture=$2 version=$3 platforms=() minor
    shift 3
    local wheels=(dist/cirrus_fast-*-abi3-manylinux_*_"$architecture".whl)
    [ -e "${wheels[0]}" ] || { echo "no wheel in dist/: make wheels" >&2; exit 1; }
    for minor in $(seq 36 -1 17); do platforms+=(--platform "manylinux_2_${minor}_$architecture"); done
    rm -rf "$folder"
    "$python" -m pip install -qq --disable-pip-version-check --no-compile \
        --target "$folder" --only-binary=:all: --implementation cp --python-version "$version" \
        "${platforms[@]}" --platform "manylinux2014_$architecture" "${wheels[0]}" "$@"
}
