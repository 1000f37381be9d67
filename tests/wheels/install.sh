# Sourced by the scripts beside it. Puts a wheel of dist/ and what its tests need into a folder, for
# another machine or Python than the one whose pip does it.

# The environment that made the wheels has the zig that compiled them, and a pip that does not take
# its own Python for the other one in what a package requires, as pip 23 does.
tools=(build/wheels/tools-*/bin/python)
[ -x "${tools[0]}" ] || { echo "wheels are made here first: make wheels" >&2; exit 1; }
tools=("${tools[-1]}")

# install_for FOLDER ARCHITECTURE X.Y [PACKAGE...]
install_for() {
    local folder=$1 architecture=$2 version=$3 platforms=() minor
    shift 3
    local wheels=(dist/cirrus_fast-*-abi3-manylinux_*_"$architecture".whl)
    [ -e "${wheels[0]}" ] || { echo "no wheel in dist/: make wheels" >&2; exit 1; }
    for minor in $(seq 36 -1 17); do platforms+=(--platform "manylinux_2_${minor}_$architecture"); done
    local pip=("${tools[0]}" -m pip install -qq --disable-pip-version-check --no-compile
        --target "$folder" --only-binary=:all: --implementation cp --python-version "$version"
        "${platforms[@]}" --platform "manylinux2014_$architecture" "${wheels[0]}")
    local wanted
    wanted="$* $(cksum < pyproject.toml)"
    if [ "$(cat "$folder/.wanted" 2> /dev/null)" = "$wanted" ]; then # all but the wheel is there
        rm -rf "$folder"/cirrus_fast*
        "${pip[@]}" --no-deps
    else
        rm -rf "$folder"
        "${pip[@]}" "$@"
        echo "$wanted" > "$folder/.wanted"
    fi
}
