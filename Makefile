# Each target works on a fresh machine with Python 3.11 or later, git and make. `make help` lists them.

VENV := .venv
BIN := $(VENV)/bin
DATA ?= data
# Number of processes that run the tests; `make test WORKERS=0` runs them in one.
WORKERS ?= auto

# Length and seed of `make faults`. The same seed, which the run prints, gives the same run.
KILLS ?= 1000
REQUESTS ?= 100000
EXAMPLES ?= 1000
SEED ?= $(shell date +%s)

# Stamps: make runs a step again when one of its sources is newer than its stamp.
INSTALLED := $(VENV)/.installed
RUNNABLE := $(VENV)/.runnable
GENERATED := $(VENV)/.generated
BENCHED := $(VENV)/.benched
PROTOS := $(shell find protos tests -name '*.proto' 2>/dev/null)
# A folder changes when a file in it is added or removed.
PROTO_FOLDERS := $(shell find protos $(wildcard tests/*/protos) -type d 2>/dev/null)
IMAGE := build/contracts.binpb

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install generate run bench test faults lint types contracts toolchains format clean

help: ## Show this list.
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
		printf '  make %-10s %s\n' "$$name" "$$text"; done

# An environment for development can run the servers, too.
run: $(if $(wildcard $(INSTALLED)),$(GENERATED),$(RUNNABLE)) ## Start the three servers with the shop, on SQLite files in DATA=DIR.
	@exec $(BIN)/diptych up --domain shop --data "$(DATA)"

test: lint types contracts toolchains ## Check everything, then run all tests.
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

faults: install ## Attack the servers for about an hour; KILLS=, REQUESTS=, EXAMPLES= set the length, SEED= repeats a run.
	DIPTYCH_FAULTS_SEED=$(SEED) DIPTYCH_FAULTS_KILLS=$(KILLS) DIPTYCH_FAULTS_REQUESTS=$(REQUESTS) \
		DIPTYCH_FAULTS_EXAMPLES=$(EXAMPLES) $(BIN)/pytest -s tests/faults

lint: install ## Check style and formatting of the Python code.
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: install ## Check the types, strictly.
	$(BIN)/mypy

contracts: $(IMAGE) ## Check style and formatting of the contracts, and compatibility with the last release.
	$(BIN)/buf lint $(IMAGE)
	$(BIN)/buf format --diff --exit-code
	@tag=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null) || { \
		echo "No release is tagged, so the contracts have no earlier version to be compatible with."; exit 0; }; \
	before=build/before; rm -rf "$$before"; mkdir -p "$$before"; \
	git archive "$$tag" protos | tar -x -C "$$before" && \
	$(BIN)/python -P diptych/contract/generate.py image "$$before.binpb" "$$before/protos" && \
	echo "Comparing the contracts with those of $$tag." && \
	$(BIN)/buf breaking $(IMAGE) --against "$$before.binpb"

toolchains: install ## Find or install Go, Node and Java for the tests in these languages.
	@tests/polyglot/install $(BIN)

bench: $(BENCHED) ## Run all benchmarks, and write the record, the plots and the README's table; CASE=NAME runs one.
	$(BIN)/python -m benchmarks $(if $(CASE),$(CASE),--record)

format: install ## Format Python code and contracts, and apply the fixes of ruff.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/buf format --write

install: $(GENERATED) ## Create .venv, install the engine and the shop into it, and generate code from the contracts.

generate: $(INSTALLED) ## Generate code from the contracts, now.
	$(BIN)/python -P diptych/contract/generate.py build
	@for root in $(wildcard tests/*/protos); do \
		echo "$(BIN)/python -P diptych/contract/generate.py generate $$root $${root%/protos}"; \
		$(BIN)/python -P diptych/contract/generate.py generate "$$root" "$${root%/protos}" || exit 1; done

clean: ## Remove all files that make created, except the data of the servers.
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . \( -name '*_pb2.py' -o -name '*_pb2.pyi' -o -name '*_pb2_grpc.py' -o -name '*.binpb' \) -delete

# Debian has the module venv in a separate package. Without it, venv creates half an environment and fails.
$(BIN)/python:
	@python=; for name in python3 python3.14 python3.13 python3.12 python3.11; do \
		if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then echo "Diptych needs Python 3.11 or later, and the PATH has none. Install it, then run make again." >&2; exit 1; fi; \
	if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$$python cannot create virtual environments: its modules venv and ensurepip are missing." >&2; \
		echo "On Debian and Ubuntu, 'apt-get install python3-venv' installs them." >&2; exit 1; fi; \
	echo "$$python -m venv $(VENV)"; $$python -m venv $(VENV)

# The build of both packages generates the code of the contracts.
$(RUNNABLE): pyproject.toml hatch_build.py shop/pyproject.toml shop/hatch_build.py $(PROTOS) | $(BIN)/python
	@echo "Installing the engine and the shop into $(VENV). This takes a few minutes once, and needs the network."
	$(BIN)/python -m pip install --quiet --editable . --editable ./shop
	@touch $@

$(INSTALLED): pyproject.toml hatch_build.py shop/pyproject.toml shop/hatch_build.py | $(BIN)/python
	@echo "Installing the engine, the shop and all tools of development into $(VENV). This takes a few minutes once."
	$(BIN)/python -m pip install --quiet --editable ".[dev]" --editable ./shop
	@touch $@

$(BENCHED): $(GENERATED)
	$(BIN)/python -m pip install --quiet --editable ".[dev,bench]" --editable ./shop
	@touch $@

$(GENERATED): $(INSTALLED) $(PROTOS) $(PROTO_FOLDERS) diptych/contract/generate.py
	@$(MAKE) --no-print-directory generate
	@touch $@

$(IMAGE): $(GENERATED)
	@mkdir -p $(@D)
	$(BIN)/python -P diptych/contract/generate.py image $@ protos
