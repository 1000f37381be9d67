#!/usr/bin/env bash
# debian_python.sh FOLDER ARCHITECTURE SUITE X.Y: CPython X.Y out of Debian's packages of that
# architecture (amd64, arm64) and suite (bookworm, trixie, sid), unpacked into FOLDER. Nothing is
# installed, and no root is needed. FOLDER/python runs it, under qemu where the CPU is another one;
# programs started from there as sys.executable do the same; FOLDER/run runs another program of that
# machine. EMULATE="qemu-... -cpu ..." says how.
#
# Needs apt and dpkg-deb, and sources of Debian; any release will do.
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd) architecture=$2 suite=$3 version=$4
root=$folder/root
mkdir -p "$folder"/{etc,lists/partial,cache/archives/partial}

if [ ! -x "$root/usr/bin/python$version" ]; then
    # The machine's own mirror and keys, for another suite.
    uri=$(apt-get indextargets --format '$(SITE) $(RELEASE)' 2> /dev/null |
        awk '$1 ~ /debian/ && $1 !~ /security/ { print $1; exit }')
    [ -n "$uri" ] || { echo "no Debian mirror among the machine's package sources" >&2; exit 1; }
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb [signed-by=$keys] $uri $suite main" > "$folder/etc/sources.list"
    : > "$folder/etc/status"
    apt=(apt-get -q -o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture"
        -o "Dir::Etc::sourcelist=$folder/etc/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$folder/lists" -o "Dir::Cache=$folder/cache"
        -o "Dir::State::status=$folder/etc/status" -o APT::Install-Recommends=0
        -o Debug::NoLocking=1 -o APT::Sandbox::User=root)
    "${apt[@]}" update > "$folder/log" 2>&1 || { cat "$folder/log" >&2; exit 1; }
    "${apt[@]}" install -y --download-only "python$version" libstdc++6 >> "$folder/log" 2>&1 ||
        { cat "$folder/log" >&2; exit 1; }
    mkdir -p "$root/usr"/{bin,lib,lib64,sbin}
    for link in bin lib lib64 sbin; do ln -sfn "usr/$link" "$root/$link"; done
    for package in "$folder"/cache/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -x -C "$root" --keep-directory-symlink
    done
fi

case $architecture in
    amd64) loader=(lib64/ld-linux-x86-64.so.2) triplet=x86_64-linux-gnu ;;
    arm64) loader=(lib/ld-linux-aarch64.so.1) triplet=aarch64-linux-gnu ;;
esac
# The loader of that glibc, given its folders, so that neither / nor the machine's glibc is used.
cat > "$folder/run" << SCRIPT
#!/bin/sh
exec ${EMULATE:-} $root/$loader --library-path $root/usr/lib/$triplet "\$@"
SCRIPT
# Seen as usr/bin/python in its tree, it finds its library by itself, also under -I.
cat > "$root/usr/bin/python" << SCRIPT
#!/bin/sh
exec $folder/run --argv0 "\$0" $root/usr/bin/python$version "\$@"
SCRIPT
chmod +x "$folder/run" "$root/usr/bin/python"
ln -sf root/usr/bin/python "$folder/python"
"$root/usr/bin/python" -c 'import platform, sys; print(sys.version.split()[0], platform.machine())'
