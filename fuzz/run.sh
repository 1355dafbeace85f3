#!/bin/sh
# Checks what reads bytes from strangers (crates/mcp, crates/oauth, crates/shield). Replays the kept corpus; when a crate or the targets changed
# against the merge base (on the main branch itself: against the last commit), fuzzes each target as well.
#
#   fuzz/run.sh [SECONDS]     time for each target, 60 by default
#   FUZZ=always|never         whatever changed
#   FUZZ_BASE=REF             whose merge base counts, origin/main or main by default
#
# A stable toolchain is enough: without a sanitizer cargo-fuzz needs nothing unstable, and there is no unsafe code here
# for a sanitizer to watch. libFuzzer itself needs a C++ compiler.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}

base_commit() {
    for ref in ${FUZZ_BASE:-origin/main main}; do
        base=$(git merge-base HEAD "$ref" 2>/dev/null) || continue
        if [ "$base" != "$(git rev-parse HEAD)" ]; then
            echo "$base"
            return
        fi
    done
    git rev-parse --verify --quiet HEAD~1
}

has_changed() {
    case ${FUZZ:-} in
    always) return 0 ;;
    never) return 1 ;;
    esac
    # Where the history is too short to tell, it counts as changed.
    base=$(base_commit) || return 0
    watched="crates/mcp crates/oauth/src crates/shield/src fuzz/src fuzz/fuzz_targets fuzz/Cargo.toml"
    # shellcheck disable=SC2086 # a list of paths
    ! git diff --quiet "$base" -- $watched || [ -n "$(git ls-files --others --exclude-standard -- $watched)" ]
}

echo "fuzz: replaying the corpus" >&2
cargo test --quiet --manifest-path fuzz/Cargo.toml

if ! has_changed; then
    echo "fuzz: nothing it reads with changed; nothing more to do (FUZZ=always to fuzz)" >&2
    exit 0
fi
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked --version '^0.13.2' cargo-fuzz

found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
for target in $(cargo fuzz list); do
    echo "fuzz: $target, $seconds s" >&2
    mkdir "$found/$target"
    # New inputs go to the first folder; the kept corpus is only read.
    cargo fuzz run --sanitizer none "$target" "$found/$target" "fuzz/corpus/$target" -- -max_total_time="$seconds" \
        -max_len=20000 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 >"$found/$target.log" 2>&1 || {
        cat "$found/$target.log"
        echo "fuzz: $target failed; the input is in fuzz/artifacts/$target. Put it into fuzz/corpus/$target once it is understood." >&2
        exit 1
    }
    grep '^stat::' "$found/$target.log"
done
