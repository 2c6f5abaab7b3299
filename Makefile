# What README and CI call. Each target installs what it needs first: see scripts/setup.sh.

CARGO ?= cargo
# cargo-deny lives in .dev/bin where the machine has none of its own.
export PATH := $(PATH):$(CURDIR)/.dev/bin

.PHONY: build demo test check bench clean

build:                  ## the release binary, target/release/pgsluice
	$(CARGO) build --release --locked

demo:                   ## two replicating nodes, 16 writers, four switchovers, two kill -9
	@scripts/setup.sh demo
	$(CARGO) build --release --locked --bin pgsluice --example demo
	@target/release/examples/demo --pgsluice target/release/pgsluice

test:                   ## unit, simulation and integration tests
	@scripts/setup.sh test
	# Bugs on purpose come first: the program that is left behind in target/debug is the good one.
	$(CARGO) test --locked --features planted-bugs --test planted
	# The tests wait for servers more than they compute: more of them at a time than cores.
	RUST_TEST_THREADS=4 $(CARGO) test --locked

check:                  ## format, lints, documentation, licences and sources of dependencies
	@scripts/setup.sh check
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --all-targets --all-features -- -D warnings
	$(CARGO) test --locked --test tidy
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	# Advisories need a database that is not in the package registry: run "cargo deny check" by hand.
	cargo-deny check bans licenses sources

bench:                  ## ratios against PgBouncer and HAProxy on this machine
	@scripts/setup.sh bench
	$(CARGO) bench --locked

clean:                  ## build results and everything fetched
	$(CARGO) clean
	rm -rf .dev
