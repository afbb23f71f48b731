# Short verbs for people and for CI. `make` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BIN := $(TARGET_DIR)/debug
GUESTS := $(TARGET_DIR)/wasm32-wasip2/actor
# A server of one's own choice, else one from PATH that is new enough, else the pinned one in .tools.
export PATH := $(abspath $(BIN)):$(PATH):$(abspath .tools)
export LATTICE_ACTORS ?= $(abspath $(GUESTS))
export LATTICE_PROGRAMS ?= $(abspath $(GUESTS)/examples)

GUEST_BUILD := $(CARGO) build --locked --target wasm32-wasip2 --profile actor

##@ Start here
.PHONY: help
help: ## List what there is to make
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: build actors ## Start a lattice, feed it sensor readings, show the alerts, stop it
	@tests/demo.sh

.PHONY: test
test: build actors programs ## Run every test
	$(CARGO) test --locked --no-fail-fast
	$(CARGO) test --locked --no-fail-fast -p sim
	$(MAKE) --no-print-directory wit-check

.PHONY: chaos
chaos: build actors programs ## Break a lattice in all the ways of the matrix (CHAOS_FLAGS='F1 --runs 20' for some)
	$(BIN)/lattice-chaos $(CHAOS_FLAGS)

##@ Measure
.PHONY: bench
bench: actors programs ## Measure everything in a release build, print one table, write target/bench.json
	$(CARGO) build --locked --release
	$(TARGET_DIR)/release/lattice-bench table --json $(TARGET_DIR)/bench.json $(BENCH_FLAGS)

.PHONY: counters
counters: build programs ## Count instructions and system calls of fixed runs, compare them with lattice-bench/bounds.txt
	$(BIN)/lattice-bench counters

##@ Build
.PHONY: tools
tools: ## Fetch the wasm target and nats-server, once
	@.ci/tools.sh

.PHONY: build
build: tools ## Build lattice-ctl, lattice-host and the rest for this machine
	$(CARGO) build --locked

.PHONY: actors
actors: tools ## Build the actors: edge-processor for both drafts of wasi:config, scheduler, failover
	$(GUEST_BUILD) -p edge-processor --no-default-features --features config-rc1
	cp $(GUESTS)/edge_processor.wasm $(GUESTS)/edge_processor_rc1.wasm
	$(GUEST_BUILD) -p edge-processor
	$(GUEST_BUILD) -p scheduler -p failover

.PHONY: programs
programs: tools ## Build the guest programs that tests use
	$(GUEST_BUILD) -p programs --examples

.PHONY: install
install: build actors ## Copy the binaries and the system actors to ~/.local/bin (PREFIX=… to change)
	install -D -t $(or $(PREFIX),$(HOME)/.local)/bin $(BIN)/lattice-ctl $(BIN)/lattice-host
	install -m 644 -t $(or $(PREFIX),$(HOME)/.local)/bin $(GUESTS)/scheduler.wasm $(GUESTS)/failover.wasm

##@ Check
.PHONY: lint
lint: ## Format and clippy, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --target wasm32-wasip2 -p edge-processor -p scheduler -p failover -p programs --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --log-level error check bans licenses sources; fi

.PHONY: doc
doc: ## Build the documentation, warnings denied
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

.PHONY: wit-check
wit-check: ## Compare the WIT dependencies with their recorded hashes
	@cd wit && sha256sum --check --quiet deps.sha256 && echo "wit: dependencies are as recorded"

##@ Clean
.PHONY: clean
clean: ## Remove what was built and fetched
	rm -rf $(TARGET_DIR) .tools
