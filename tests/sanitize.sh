#!/usr/bin/env bash
# The library under the address, undefined-behaviour and thread sanitizers: the C examples against
# their golden output, C tests, and Rust tests. Needs a nightly Rust (no source of std) and gcc.
#
#   tests/sanitize.sh [address|thread]...      both without arguments
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(rustc -vV | sed -n 's/^host: //p')
out=${CARGO_TARGET_DIR:-target}
mkdir -p "$out"
out=$(cd "$out" && pwd)
suppressions=$PWD/tests/tsan.supp

# std is not instrumented: the mismatch that rustc warns of concerns what is checked, not the ABI.
nightly() { # sanitizer, arguments of cargo
    local sanitizer=$1
    shift
    RUSTFLAGS="-Zsanitizer=$sanitizer -Cunsafe-allow-abi-mismatch=sanitizer" \
        CARGO_TARGET_DIR="$out/$sanitizer" cargo +nightly "$@" --locked --release --target "$target"
}

address() {
    nightly address build --lib
    local library=$out/address/$target/release/libmadang.a bin=$out/address/c
    local flags="-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all"
    mkdir -p "$bin"
    echo "== examples, address and undefined"
    make -C c_examples check BIN="$bin/examples" CFLAGS="$flags -I../include" LDFLAGS="$library" \
        LDLIBS="-ldl -lm"
    echo "== C tests, address and undefined"
    local name=/mdg-sanitize-$$
    for test in ring_cancel sem_cancel cancel; do
        # shellcheck disable=SC2086
        gcc -std=c11 -D_GNU_SOURCE $flags -Iinclude "tests/c/$test.c" "$library" \
            -o "$bin/$test" -lpthread -ldl -lm
    done
    "$bin/ring_cancel"
    "$bin/sem_cancel" "$name" "$name"
    "$bin/cancel" "$name" "$bin/fifo"
    echo "== Rust tests, address"
    # Leaks: children leave with _exit, and tests forget what a death must not close.
    # shellcheck disable=SC2086
    ASAN_OPTIONS=detect_leaks=0 nightly address test $rust_tests
}

thread() {
    echo "== Rust tests, thread"
    TSAN_OPTIONS="suppressions=$suppressions" nightly thread test --test threads
}

rust_tests="--test threads --test ring --test wait --test mutex --test sem_undo --test pipe_messages"

for which in "${@:-address thread}"; do
    for one in $which; do "$one"; done
done
