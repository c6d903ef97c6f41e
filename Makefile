# Every target installs what it needs by itself: Debian packages by name, with sudo where it isn't root. What is set on the command line
# (`make bench ONLY=proxy`) is in the environment of what a target runs.

.DEFAULT_GOAL := help
.PHONY: help build test check unit engines cluster python soak demo bench fmt fuzz deny

help: ## Shows this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Builds the program, target/release/ondemand
	@tests/setup/packages.sh build run
	cargo build --locked --release --package ondemand-cli

test: ## Checks everything: the parts below, on one build
	@tests/run.sh

check: ## Checks formatting, lints, documentation, scripts and licences
	@tests/run.sh check

unit: ## Runs the tests that need neither root nor Postgres, Docker or a mount
	@tests/run.sh unit

engines: ## Runs the tests over real Postgres, BTRFS, Git and one Docker Engine
	@tests/run.sh engines

cluster: ## Runs the tests over Docker Swarms of three nodes
	@tests/run.sh cluster

python: ## Checks and tests the Python package
	@tests/run.sh python

soak: ## Uses databases for an hour, while all that can goes wrong; SOAK_SECONDS=600 for ten minutes
	@ONDEMAND_SOAK_SECONDS="$(or $(SOAK_SECONDS),3600)" tests/run.sh engines --profile soak --no-capture -E 'test(/^soak::/)'

demo: ## Shows it all on 1 GB of sample data; KEEP=1 leaves it running
	@KEEP="$(KEEP)" SIZE="$(SIZE)" tests/demo.sh

bench: ## Measures the proxy, databases, environments and the Python package against others; ONLY=proxy, databases, environments or python for one
	@tests/bench.sh

fmt: ## Formats the code
	cargo fmt --all

fuzz: ## Runs each fuzz target for a minute; FUZZ_SECONDS=600 for ten, FUZZ_TARGETS=names for one of them
	@FUZZ_SECONDS="$(FUZZ_SECONDS)" FUZZ_TARGETS="$(FUZZ_TARGETS)" fuzz/run.sh

deny: ## Checks the licences, sources and known vulnerabilities of what this depends on
	@tests/deny.sh
