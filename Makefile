# What one does with Weir, day by day. `make help` lists it.
#
# Everything that is downloaded stays in this folder (.venv, tests/interop/node/node_modules,
# target) or in cargo's own home, at the versions that the lock files name.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

DATABASE := .venv/.database-installed
TEST_PACKAGES := .venv/.test-packages-installed
CHART_PACKAGES := .venv/.chart-packages-installed
NODE_PACKAGES := tests/interop/node/node_modules/.installed

.PHONY: help
help: ## List what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: demo
demo: $(DATABASE) ## Start a database and Weir, and watch the change-stream tutorial (ONCE=1: then stop)
	@scripts/need cargo cc
	@echo "building weir"
	@cargo build --release --bin weir
	@PATH="$(CURDIR)/.venv/bin:$$PATH" target/release/weir dev $(if $(ONCE),--once)

.PHONY: test
test: test-setup lint-proto ## Run all tests
	@scripts/test

.PHONY: test-setup
test-setup: $(TEST_PACKAGES) $(NODE_PACKAGES) ## Install the database and the foreign clients that the tests start
	@scripts/need cargo cc

.PHONY: model
model: ## Run the hub's ring and hand-over under a model checker, in thousands of orders of steps
	@scripts/need cargo cc
	@echo "running the hub's models"
	@cargo test --features shuttle --lib hub::tests::model

.PHONY: chart
chart: $(DATABASE) $(CHART_PACKAGES) ## Test the Helm chart and lint the image's Dockerfile
	@scripts/need cargo cc
	@echo "building weir, which the chart's tests ask"
	@cargo build --quiet --bin weir
	@.venv/bin/python -m pytest tests/chart

.PHONY: fuzz
fuzz: ## Fuzz what reads bytes from outside, led by coverage (FUZZ_SECONDS=60 for each, FUZZ_TARGETS=event)
	@scripts/need cargo cc cargo-fuzz
	@scripts/fuzz

.PHONY: soak
soak: $(DATABASE) ## Hold thousands of watches through faults, and check each for loss (5 minutes; SOAK="--for 2h")
	@scripts/need cargo cc
	@echo "building weir and the soak"
	@cargo bench --bench soak -- $(SOAK)

.PHONY: guarantees
guarantees: ## Run all tests and a soak, and write what they did into docs/guarantees.md (half an hour)
	@mkdir -p target/tally && rm -f target/tally/*
	@WEIR_TALLY=$(CURDIR)/target/tally/tests $(MAKE) test
	@WEIR_TALLY=$(CURDIR)/target/tally/soak $(MAKE) soak
	@scripts/write-figures target/tally/tests target/tally/soak

.PHONY: bench
bench: $(DATABASE) ## Measure Weir beside what it replaces (a quarter of an hour; BENCH="--only fan-out" for a part)
	@scripts/need cargo cc
	@echo "building weir and the benchmark"
	@cargo bench --bench performance -- $(BENCH)

.PHONY: lint
lint: lint-rust lint-proto lint-image ## Check format, clippy, the proto, the Dockerfile, and dependencies' licences and sources
	@scripts/need cargo-deny
	@echo "checking the dependencies' licences, bans and sources"
	@cargo deny --log-level error check bans licenses sources

.PHONY: lint-rust
lint-rust: ## Check the format, clippy on all targets, and the links in the documentation
	@scripts/need cargo cc
	@echo "checking the format of the Rust code"
	@cargo fmt --check
	@echo "running clippy"
	@cargo clippy --all-targets -- -D warnings
	@echo "building the documentation"
	@RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet

.PHONY: lint-proto
lint-proto: $(TEST_PACKAGES) ## Check the proto's style and format
	@echo "checking the proto's style and format"
	@.venv/bin/buf lint
	@.venv/bin/buf format --diff --exit-code

.PHONY: lint-image
lint-image: $(CHART_PACKAGES) ## Check the Dockerfile
	@echo "checking the Dockerfile"
	@.venv/bin/hadolint Dockerfile

$(DATABASE): requirements.txt
	@scripts/install-python-packages $<
	@touch $@

$(TEST_PACKAGES): requirements-test.txt $(DATABASE)
	@scripts/install-python-packages $<
	@touch $@

$(CHART_PACKAGES): requirements-chart.txt
	@scripts/install-python-packages $<
	@touch $@

$(NODE_PACKAGES): tests/interop/node/package.json tests/interop/node/package-lock.json
	@scripts/need node
	@echo "installing the packages of the Node client"
	@npm ci --prefix tests/interop/node --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@
