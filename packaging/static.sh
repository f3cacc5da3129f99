#!/usr/bin/env bash
# Builds `naka` as one file that needs no library of the system, and puts it into a folder: packaging/static.sh FOLDER
# Needs musl's C compiler (Debian: musl-tools) and the Rust target, which rustup adds.
set -euo pipefail
folder=$(mkdir -p "${1:?where to: packaging/static.sh FOLDER}" && cd "$1" && pwd)
cd "$(dirname "$0")/.."

target="$(uname -m)-unknown-linux-musl"
command -v musl-gcc >/dev/null || { echo "musl-gcc is missing (Debian: apt-get install musl-tools)" >&2; exit 1; }
# Only where it is missing: rustup asks its server even for what is there.
if command -v rustup >/dev/null && ! rustup target list --installed | grep -xF "$target" >/dev/null; then rustup target add "$target"; fi

# Names of functions stay, for backtraces; lines are most of its size.
export CARGO_PROFILE_RELEASE_STRIP="${CARGO_PROFILE_RELEASE_STRIP:-debuginfo}"
compiler="CC_${target//-/_}"
export "$compiler=musl-gcc" RUSTFLAGS="-C target-feature=+crt-static ${RUSTFLAGS:-}"
cargo build --release --locked -p naka-gateway --bin naka --target "$target" ${NAKA_FEATURES:+--features "$NAKA_FEATURES"}
cp "${CARGO_TARGET_DIR:-target}/$target/release/naka" "$folder/naka"
"$folder/naka" check gateway.yaml
