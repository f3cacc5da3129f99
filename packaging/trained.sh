#!/usr/bin/env bash
# Builds `naka` as fast as the compiler can make it, and puts it into a folder: packaging/trained.sh FOLDER
# Twice: first with counters in it, and under load (benches/compare.py) they count what is run how often; then by those counts
# (profile-guided optimisation), with all crates as one (the profile `dist`). Half an hour on two cores. Linux, on the loopback.
# Needs wrk and h2load, python3 and openssl, and of rustup the component llvm-tools, which is added if it is not there.
set -euo pipefail
folder=$(mkdir -p "${1:?where to: packaging/trained.sh FOLDER}" && cd "$1" && pwd)
cd "$(dirname "$0")/.."

for tool in wrk h2load python3 openssl; do
  command -v "$tool" >/dev/null || { echo "$tool is missing (Debian: apt-get install wrk nghttp2-client python3 openssl)" >&2; exit 1; }
done
merge="$(rustc --print target-libdir)/../bin/llvm-profdata"
[ -x "$merge" ] || rustup component add llvm-tools

host=$(rustc -vV | sed -n 's/^host: //p')
target=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)
export CARGO_TARGET_DIR=$target
counts=$target/trained
rm -rf "$counts" && mkdir -p "$counts"
# With a target named, what runs while it is built (build scripts, macros) is built without these flags, and so are the others of the load.
build() {
  RUSTFLAGS="${RUSTFLAGS:-} $1" cargo build --profile dist --locked -p naka-gateway --bin naka --target "$host" \
    ${NAKA_FEATURES:+--features "$NAKA_FEATURES"}
}

# Whoever answers during the training need not be fast.
cargo build --locked -p naka-suite --bin bench-backend --target "$host"
build "-Cprofile-generate=$counts"
mkdir -p "$counts/bin"
cp "$target/$host/dist/naka" "$target/$host/debug/bench-backend" "$counts/bin"
# Counting takes time, so the figures that this prints say nothing.
benches/compare.py "$counts/bin/naka" --strict --proxies naka --workloads w1,w2,w3,w4,w5,w7 --rounds 4
"$merge" merge -o "$counts/naka.profdata" "$counts"/*.profraw
build "-Cprofile-use=$counts/naka.profdata"
cp "$target/$host/dist/naka" "$folder/naka"
"$folder/naka" check gateway.yaml
