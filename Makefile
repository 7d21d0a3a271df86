# Everything runs from .venv, which the first target that needs it builds with Python 3.11 or newer.

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
PACKAGING := pyproject.toml setup.cfg constraints.txt
BENCHMARKS = $(sort $(wildcard benchmarks/*.py))
WORKLOAD ?= workloads/cifar_semi.py
TEST_OPTIONS ?= -n 2

.PHONY: help setup run test rtl lint bench
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'

setup: $(VENV)/.run ## Install accsim into .venv

run: $(VENV)/.run ## Train WORKLOAD on its simulated machine and print the report's path
	$(BIN)/python -m accsim run $(WORKLOAD)

test: $(VENV)/.test ## Run the tests
	NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TEST_OPTIONS)

rtl: $(VENV)/.test ## Hold large arrays and whole training steps against RTL, VGG-16 against EF-Train; minutes
	$(BIN)/python -m pytest $(TEST_OPTIONS) -m scheduled

lint: $(VENV)/.test ## Check format, style, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test ## Measure speed against a peer in the same run
	@$(if $(BENCHMARKS),,echo "benchmarks/ holds no Python file yet: nothing to measure")
	@set -e; for file in $(BENCHMARKS); do echo "$$file"; $(BIN)/python $$file; done

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "accsim needs Python 3.11 or newer, not $$($(PYTHON) --version 2>&1 | head -n 1);" \
	    "install it or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(PACKAGING) | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/.test: $(PACKAGING) | $(BIN)/python
	$(INSTALL) -e '.[test]'
	@touch $@ $(VENV)/.run
