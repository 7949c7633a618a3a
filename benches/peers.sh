#!/bin/sh
# peers.sh BIN CC CXX FLAGS PEERS RUST: builds each peer in the list `peers`, and writes those that
# cannot be built to BIN/absent with the package to install and, in BIN/NAME.log, the compiler's words.
# PEERS or RUST 0: none, or no Rust ones, are built; they count as absent.
set -u
bin=$1 cc=$2 cxx=$3 flags=$4 wants_peers=${5:-1} wants_rust=${6:-1}
: >"$bin/absent"

# The Rust peers are one static library. Where cargo is missing or cannot fetch, they are absent.
rust=$bin/rust/release/librust_peers.a
if [ "$wants_peers" = 0 ] || [ "$wants_rust" = 0 ]; then
    rm -f "$rust"
else
    echo "building the Rust peers, a minute the first time"
    CARGO_TARGET_DIR=$bin/rust ${CARGO:-cargo} build --release --locked --quiet \
        --manifest-path rust_peers/Cargo.toml >"$bin/rust.log" 2>&1 || rm -f "$rust"
fi

while read -r name source package needs; do
    case $name in '#'*|'') continue ;; esac
    if [ "$wants_peers" = 0 ]; then
        rm -f "$bin/$name"
        echo "$name $package" >>"$bin/absent"
        continue
    fi
    [ "$needs" = rust ] && [ ! -e "$rust" ] && rm -f "$bin/$name"
    library=
    [ "$needs" = rust ] && library=$rust
    newest=$(ls -t "src/$source" src/*.h $library "$bin/$name" 2>/dev/null | head -n 1)
    [ "$newest" = "$bin/$name" ] && continue
    case $source in *.cc) compile="$cxx -std=gnu++17" ;; *) compile="$cc -std=gnu11" ;; esac
    case $needs in
    # DPDK needs its instruction set flags; its libraries are not linked, the headers suffice.
    pkg:*) before=$(pkg-config --cflags "${needs#pkg:}" 2>/dev/null) after= ;;
    rust) before= after="$rust -lpthread -ldl -lm" ;;
    *) before= after=$(echo "$needs" | tr , ' ') ;;
    esac
    # Warnings of other people's headers are theirs.
    if $compile $flags $before -w -o "$bin/$name" "src/$source" $after 2>"$bin/$name.log"; then
        rm -f "$bin/$name.log"
    else
        rm -f "$bin/$name"
        echo "$name $package" >>"$bin/absent"
    fi
done <peers
