# Everything that is done with this repository; `make` alone lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
READY := .venv/.ready
PYTEST_ARGS ?=
PYTHON_FOLDERS = $(wildcard broker tests bench tools)

.PHONY: help setup demo test test-unit check gen baseline fuzz chaos bench images dev-up dev-status dev-down lock clean

help: ## Say what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*## "} {printf "  make %-11s %s\n", $$1, $$2}'

setup: $(READY) ## Make .venv from the hashed lock (the others do this by themselves)

$(READY): requirements-dev.lock pyproject.toml tools/setup.sh
	@tools/setup.sh

demo: $(READY) ## Watch a credential live and die, on real SPIRE, Vault and PostgreSQL
	@$(BIN)/tasklease demo

test: $(READY) ## Get the real parts and images, then run every test (PYTEST_ARGS=...)
	@tools/test.sh $(PYTEST_ARGS)

test-unit: $(READY) ## Run the quick tests only: no network, no processes
	@$(BIN)/python -m pytest tests/unit $(PYTEST_ARGS)

check: $(READY) ## Lint, types, import rules, wire, generated files; no network, no Docker
	@PYTHON_FOLDERS="$(PYTHON_FOLDERS)" tools/check.sh

gen: $(READY) ## Generate Python from proto/ and spire/proto/, the catalog's JSON Schema, the table of transitions
	@tools/generate.sh .
	@$(BIN)/tasklease catalog schema >docs/catalog.schema.json
	@$(BIN)/python -m tools.lifecycle

baseline: $(READY) ## Accept the wire as it is now: later breaking changes are measured against it
	@$(BIN)/buf build --exclude-source-info -o proto/baseline.binpb

fuzz: $(READY) ## Fuzz the parser and the verifiers with new inputs (FUZZ_SECONDS=60 for each property)
	@FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) $(BIN)/python -m pytest tests/unit/spire/test_fuzzing.py --timeout=0 $(PYTEST_ARGS)

chaos: $(READY) ## Break everything in turn while agents work (CHAOS_SECONDS=1800, CHAOS_SEED=... draws the same faults)
	@CHAOS_SECONDS=$(or $(CHAOS_SECONDS),1800) $(BIN)/python -m pytest tests/chaos -s $(PYTEST_ARGS)

bench: $(READY) ## Measure acquire and complete against Vault and PostgreSQL directly
	@$(BIN)/python -m bench.run

images: $(READY) ## Build the container images locally, under the names of docker-compose.yml
	@docker/build-local-images.sh

dev-up: $(READY) ## Start the whole stack on loopback
	@$(BIN)/tasklease dev up

dev-status: $(READY) ## Say what of the stack is up
	@$(BIN)/tasklease dev status

dev-down: $(READY) ## Stop the stack
	@$(BIN)/tasklease dev down

lock: $(READY) ## Resolve the requirements anew and write both lock files
	@tools/lock.sh

clean: ## Remove what was made here; caches of built parts are kept
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .venv ./*.egg-info
