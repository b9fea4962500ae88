# fromnoise: everything a fresh machine needs is Python (3.11 or later), make and git.
#
#   make demo      a generator trained, sampled and scored on this machine
#   make test      everything that CI checks
#
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
PYTEST_ARGS ?= -n 2 -q

# pyright says nothing about newer versions of itself: the pin decides.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test lint format bench clean

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)$$/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-16s%s\n", $$1, $$2 }'

setup: $(VENV)/.dev ## make .venv with the package, the tests' and the linters' tools, all pinned

demo: $(VENV)/.core ## train on the embedded digits, sample, score: pictures and numbers in runs/demo
	$(BIN)/fromnoise demo --out runs/demo

test: lint ## lint, types, import contracts and tests: what CI runs
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.dev ## format, lint, types, import contracts, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/pyright

format: $(VENV)/.dev ## put the code into its form, and repair what can be repaired
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## speed, against diffusers on the same work and weights
	$(BIN)/python -m benchmarks

clean: ## remove .venv and the caches; runs/ stays
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist build

# The stamps: a second call finds nothing to do. torch is named in the same pip command as its pin, always: left to
# itself pip would take the newest build of it, whatever the rest was tested with.
$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[dev]'
	@touch $(VENV)/.core $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("fromnoise needs Python 3.11 or later; $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12 ..." % v[:2])'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make environments: on Debian and Ubuntu, apt-get install python3-venv" >&2; exit 1; }
