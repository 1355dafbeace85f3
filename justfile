# `just` lists what there is to do.

_default:
    @just --list

# Serve the sample server behind the gate
run:
    cargo run --release -- run

# Everything that needs nothing but Rust
test:
    cargo test --workspace

# Property tests with new cases, many of them
properties CASES="20000":
    env PROPTEST_RNG_SEED="$(date +%s)" PROPTEST_CASES={{CASES}} cargo test --workspace

# What a change must pass, from a clean checkout
ci:
    .ci/run

# Formatting, lints, dependency rules
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo deny check bans licenses sources

# The official conformance suite, real peers and a real browser, directly and through the gate; two gates at one Redis (127.0.0.1:6379); a page that has a file sent out, and does not; the audit log at real receivers
interop:
    interop/setup.sh
    cargo build -p bartizan-cli -p bartizan-trials
    cargo build -p bartizan-gateway --example upstream
    target/interop/venv/bin/python interop/conformance.py
    target/interop/venv/bin/python interop/upstream_auth.py
    target/interop/venv/bin/python interop/peers.py
    target/interop/venv/bin/python interop/escape.py
    target/interop/venv/bin/python interop/identity.py
    target/interop/venv/bin/python interop/browser.py
    target/interop/venv/bin/python interop/soc.py
    target/interop/venv/bin/python interop/limits.py
    target/interop/venv/bin/python interop/story.py
    target/interop/venv/bin/python interop/keys.py

# The store's suite on Postgres too (127.0.0.1:5432, or BARTIZAN_TEST_POSTGRES)
postgres:
    env BARTIZAN_TEST_POSTGRES="${BARTIZAN_TEST_POSTGRES:-postgres://postgres@127.0.0.1:5432/postgres}" cargo test --workspace --test repositories

# Proofs held against asking everybody in a small world; SOLVER reads SMT-LIB (crates/policy/tools/cvc5-stdin, after pip install cvc5)
prove SOLVER="cvc5":
    env BARTIZAN_TEST_SOLVER={{SOLVER}} cargo test -p bartizan-policy --lib prove

# Fuzz for a minute each, if their crate changed; else replay the corpus
fuzz:
    fuzz/run.sh

# Direct, floor and gate, alternating (docs/performance.md)
bench *ARGS:
    cargo build --release -p bartizan-cli -p bartizan-benches
    target/release/bench {{ARGS}}

# What the token, the shield and the disk cost, by gates that differ in one setting
parts *ARGS:
    cargo build --release -p bartizan-cli -p bartizan-benches
    target/release/bench --parts {{ARGS}}

# What it costs to read documents in a process of their own
documents:
    env BARTIZAN_MEASURE=1 cargo test --release -p bartizan-gateway --test readers

# Search an audit log of ten million entries in under two seconds (some minutes, some gigabytes)
search-scale:
    cargo test --release -p bartizan-audit --test it -- --ignored ten_million --nocapture

# What a durable call costs, in syncs of the same disk; nobody else should be on it
durable:
    cargo test --release -p bartizan-audit --test it -- --ignored durable_call --nocapture

# Write docs/attacks.md again
matrix:
    cargo run -q -p bartizan-trials --bin matrix > docs/attacks.md
